"""Lesson 01, noise and flow: the forward process, what a network predicts, and the steps back."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lesson_lib.exercises.core import Case, Exercise, LessonCard, Mistake, Property, Prose, Question, normal, uniform
from lesson_lib.noise import Diffusion, expand
from lesson_lib.samplers import Model, euler_step

LESSON = LessonCard(
    number="01",
    slug="noise_and_flow",
    title="Noise and flow",
    question="How does noise become an image?",
    minutes=110,
    prerequisites=("00",),
)

# --- random cases ------------------------------------------------------------------------------------------------


def _pair(g: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Pictures and points in turn: an answer must fit both, since the lesson uses it on both."""
    first = normal(g, 4 + size, *((3, 4, 5 + size), (2,))[size % 2])
    return first, normal(g, *first.shape)


def _levels(g: torch.Generator, count: int) -> tuple[Tensor, Tensor]:
    """Draw alpha_bar now and one step nearer to the data, well apart from each other and from 0 and 1."""
    now = uniform(g, count, low=0.1, high=0.6)
    return now, now + (1 - now) * uniform(g, count, low=0.2, high=0.8)


def _mixing(g: torch.Generator, size: int) -> Case:
    return Case(*_pair(g, size), uniform(g, 4 + size, low=0.1, high=0.9))


def _one_step(g: torch.Generator, size: int) -> Case:
    return Case(*_pair(g, size), *_levels(g, 4 + size))


def _ddim(g: torch.Generator, size: int) -> Case:
    x0, eps = _pair(g, size)
    return Case(x0, eps, *_levels(g, 4 + size), normal(g, *x0.shape), (0.0, 0.5, 1.0)[size % 3])


def _straight(g: torch.Generator, size: int) -> Case:
    return Case(*_pair(g, size))


def _bent(z: Tensor, t: Tensor) -> Tensor:
    """A velocity that depends on the place and on the time, both of them not in a line."""
    t = expand(t, z)
    return torch.sin(2 * z) * (1 + t**2) + 0.5 * z * t - 0.3


def _heun(g: torch.Generator, size: int) -> Case:
    z, _ = _pair(g, size)
    t = uniform(g, 4 + size, low=0.6, high=1.0)
    return Case(_bent, z, t, t - uniform(g, 4 + size, low=0.2, high=0.5))


def _times(g: torch.Generator, size: int) -> Case:
    seed = int(torch.randint(2**31, (1,), generator=g))
    mean, std = ((0.0, 1.0), (-1.2, 0.5), (0.8, 1.8))[size % 3]
    return Case(20_000 + 1000 * size, torch.Generator().manual_seed(seed), mean, std)


# --- what every right answer has ---------------------------------------------------------------------------------


def _keeps_variance(answer: Callable[..., Tensor], case: Case) -> str | None:
    g = torch.Generator().manual_seed(case.seed)
    for level in (0.1, 0.5, 0.9):
        spread = float(answer(normal(g, 1, 20_000), normal(g, 1, 20_000), torch.tensor([level])).var())
        if abs(spread - 1) > 0.1:
            return f"Data and noise of variance 1 must give variance 1; at ᾱ = {level} yours give {spread:.2f}."
    return None


def _lands_on_data(answer: Callable[..., tuple[Tensor, Tensor]], case: Case) -> str | None:
    x0, x_t, alpha_bar, _ = case.copy().args
    mean, variance = answer(x0, x_t, alpha_bar, torch.ones_like(alpha_bar))
    if not torch.allclose(mean, x0, atol=1e-5) or float(variance.abs().max()) > 1e-6:
        return "Where alpha_bar_prev is 1 the step before is the data: the mean must be x0 and the variance 0."
    return None


def _is_logit_normal(answer: Callable[..., Tensor], case: Case) -> str | None:
    count, generator, mean, std = case.copy().args
    t = answer(count, generator, mean, std)
    if not bool(((t > 0) & (t < 1)).all()):
        return f"Times must lie between 0 and 1; yours run from {float(t.min()):.2f} to {float(t.max()):.2f}."
    logit = torch.logit(t.double())
    for share, z in ((0.1587, -1.0), (0.5, 0.0), (0.8413, 1.0)):
        found, wanted = float(logit.quantile(share)), mean + std * z
        if abs(found - wanted) > 0.06 * std:
            return (
                f"With mean {mean:g} and std {std:g}, {share:.0%} of all times should have a logit below {wanted:.2f}; "
                f"with yours the limit is {found:.2f}."
            )
    return None


def _draws_from_its_generator(answer: Callable[..., Tensor], case: Case) -> str | None:
    first, second = case.copy(), case.copy()
    torch.manual_seed(1)
    one = answer(*first.args)
    torch.manual_seed(2)
    if not torch.equal(one, answer(*second.args)):
        return "Two equal generators give different times: draw with generator=generator."
    if torch.equal(one, answer(*second.args)):
        return "The same generator gives the same times twice in a row: draw from it, do not seed it again."
    return None


# --- mistakes that take more than a line -------------------------------------------------------------------------


def _posterior(
    x0: Tensor, x_t: Tensor, now: Tensor, before: Tensor, *, alpha: Tensor | None = None, swap: bool = False
) -> tuple[Tensor, Tensor]:
    now, before = expand(now, x_t), expand(before, x_t)
    alpha = now / before if alpha is None else expand(alpha, x_t)
    beta = 1 - alpha
    first, second = (x_t, x0) if swap else (x0, x_t)
    mean = (before.sqrt() * beta * first + alpha.sqrt() * (1 - before) * second) / (1 - now)
    return mean, beta * (1 - before) / (1 - now)


def _no_roots(x0: Tensor, x_t: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    _, variance = _posterior(x0, x_t, now, before)
    now, before = expand(now, x_t), expand(before, x_t)
    alpha = now / before
    return (before * (1 - alpha) * x0 + alpha * (1 - before) * x_t) / (1 - now), variance


def _large_variance(x0: Tensor, x_t: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    return _posterior(x0, x_t, now, before)[0], 1 - expand(now / before, x_t)


def _deviation(x0: Tensor, x_t: Tensor, now: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
    mean, variance = _posterior(x0, x_t, now, before)
    return mean, variance.sqrt()


def _sigma(now: Tensor, before: Tensor, eta: float) -> Tensor:
    return eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()


def _ddim_stays(x0: Tensor, eps: Tensor, now: Tensor, before: Tensor, noise: Tensor, eta: float = 0.0) -> Tensor:
    now, before = expand(now, x0), expand(before, x0)
    sigma = _sigma(now, before, eta)
    return now.sqrt() * x0 + (1 - now - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise


def _ddim_no_root(x0: Tensor, eps: Tensor, now: Tensor, before: Tensor, noise: Tensor, eta: float = 0.0) -> Tensor:
    now, before = expand(now, x0), expand(before, x0)
    sigma = _sigma(now, before, eta)
    return before * x0 + (1 - before - sigma**2) * eps + sigma * noise


def _ddim_half_sigma(x0: Tensor, eps: Tensor, now: Tensor, before: Tensor, noise: Tensor, eta: float = 0.0) -> Tensor:
    now, before = expand(now, x0), expand(before, x0)
    sigma = eta * (1 - now / before).sqrt()
    return before.sqrt() * x0 + (1 - before - sigma**2).clamp(min=0).sqrt() * eps + sigma * noise


def _ddim_too_much(x0: Tensor, eps: Tensor, now: Tensor, before: Tensor, noise: Tensor, eta: float = 0.0) -> Tensor:
    now, before = expand(now, x0), expand(before, x0)
    return before.sqrt() * x0 + (1 - before).sqrt() * eps + _sigma(now, before, eta) * noise


def _ddim_no_fresh(x0: Tensor, eps: Tensor, now: Tensor, before: Tensor, noise: Tensor, eta: float = 0.0) -> Tensor:
    now, before = expand(now, x0), expand(before, x0)
    sigma = _sigma(now, before, eta)
    return before.sqrt() * x0 + (1 - before - sigma**2).clamp(min=0).sqrt() * eps


def _heun_with(
    velocity: Model, z: Tensor, t: Tensor, t_next: Tensor, *, at: Tensor | None = None, stay: bool = False
) -> Tensor:
    here = velocity(z, t)
    there = velocity(z if stay else euler_step(z, here, t, t_next), t_next if at is None else at)
    return euler_step(z, (here + there) / 2, t, t_next)


def _heun_sum(velocity: Model, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    here = velocity(z, t)
    return euler_step(z, here + velocity(euler_step(z, here, t, t_next), t_next), t, t_next)


def _heun_twice(velocity: Model, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    here = velocity(z, t)
    tried = euler_step(z, here, t, t_next)
    return euler_step(tried, (here + velocity(tried, t_next)) / 2, t, t_next)


def _midpoint(velocity: Model, z: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
    middle = (t + t_next) / 2
    return euler_step(z, velocity(euler_step(z, velocity(z, t), t, middle), middle), t, t_next)


def _uniform_sigmoid(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return torch.sigmoid(mean + std * torch.rand(count, generator=generator, device=generator.device))


def _draw(count: int, generator: torch.Generator) -> Tensor:
    return torch.randn(count, generator=generator, device=generator.device)


# --- the exercises -----------------------------------------------------------------------------------------------

EXERCISES = [
    Exercise(
        id="noise.add_noise",
        lesson="01",
        number=1,
        title="Jump to any noise level",
        points=3,
        minutes=8,
        difficulty=1,
        case=_mixing,
        properties=[Property("variance stays 1", _keeps_variance)],
        mistakes=[
            Mistake(
                "no root",
                lambda x0, noise, a: expand(a, x0) * x0 + (1 - expand(a, x0)) * noise,
                "You multiply by ᾱ and 1 - ᾱ themselves. Those are shares of the *variance*; sizes are their roots. "
                "Without the roots the mixture of two unit variances has a variance below 1.",
            ),
            Mistake(
                "roles swapped",
                lambda x0, noise, a: (1 - expand(a, x0)).sqrt() * x0 + expand(a, x0).sqrt() * noise,
                "Signal and noise have changed places: at ᾱ = 1 nothing but the image should be left.",
            ),
            Mistake(
                "one minus the root",
                lambda x0, noise, a: expand(a, x0).sqrt() * x0 + (1 - expand(a, x0).sqrt()) * noise,
                "The noise has the factor 1 - √ᾱ; it should be √(1 - ᾱ). Subtract first, take the root after.",
            ),
            Mistake(
                "noise added on top",
                lambda x0, noise, a: x0 + (1 - expand(a, x0)).sqrt() * noise,
                "The image keeps its full size, so the variance grows. This process preserves it: shrink the image "
                "by √ᾱ as well.",
            ),
            Mistake(
                "no expand",
                lambda x0, noise, a: a.sqrt() * x0 + (1 - a).sqrt() * noise,
                "alpha_bar has shape (B,) and meets the last axis of the images. Give it trailing axes first: "
                "expand(alpha_bar, x0).",
            ),
        ],
    ),
    Exercise(
        id="noise.x0_from_eps",
        lesson="01",
        number=2,
        title="From predicted noise to the image it implies",
        points=3,
        minutes=8,
        difficulty=1,
        case=_mixing,
        mistakes=[
            Mistake(
                "noise added again",
                lambda x_t, eps, a: (x_t + (1 - expand(a, x_t)).sqrt() * eps) / expand(a, x_t).sqrt(),
                "You add the noise a second time; going back it must be subtracted.",
            ),
            Mistake(
                "not rescaled",
                lambda x_t, eps, a: x_t - (1 - expand(a, x_t)).sqrt() * eps,
                "The noise is gone, but the image is still shrunk by √ᾱ. Divide by it.",
            ),
            Mistake(
                "divided by alpha_bar",
                lambda x_t, eps, a: (x_t - (1 - expand(a, x_t)).sqrt() * eps) / expand(a, x_t),
                "You divide by ᾱ; the image was multiplied by its root.",
            ),
            Mistake(
                "missing brackets",
                lambda x_t, eps, a: x_t - (1 - expand(a, x_t)).sqrt() * eps / expand(a, x_t).sqrt(),
                "Only the noise is divided by √ᾱ: the whole difference must be. Set brackets around it.",
            ),
            Mistake(
                "the other conversion",
                lambda x_t, eps, a: (x_t - expand(a, x_t).sqrt() * eps) / (1 - expand(a, x_t)).sqrt(),
                "This is eps_from_x0: it takes away the image and leaves noise. Here the roots belong the other way.",
            ),
        ],
    ),
    Exercise(
        id="noise.posterior",
        lesson="01",
        number=3,
        title="One step back, if the image were known",
        points=5,
        minutes=15,
        difficulty=3,
        case=_one_step,
        properties=[Property("the last step", _lands_on_data)],
        mistakes=[
            Mistake(
                "weights swapped",
                lambda x0, x_t, a, p: _posterior(x0, x_t, a, p, swap=True),
                "The two weights have changed places: x0 carries √ᾱ_prev β, x_t carries √α (1 - ᾱ_prev).",
            ),
            Mistake(
                "alpha_bar for alpha",
                lambda x0, x_t, a, p: _posterior(x0, x_t, a, p, alpha=a),
                "You used ᾱ where this one step's α belongs. ᾱ counts all steps since the data; "
                "the step alone is α = ᾱ / ᾱ_prev, and β = 1 - α.",
            ),
            Mistake(
                "no roots",
                _no_roots,
                "The variance is right. In the mean the weights lack their roots: √ᾱ_prev β and √α (1 - ᾱ_prev).",
            ),
            Mistake(
                "beta as the variance",
                _large_variance,
                'The mean is right. The variance is β, the upper bound (DDPM\'s "large" choice). Knowing x0 makes it '
                "smaller, by the factor (1 - ᾱ_prev) / (1 - ᾱ).",
            ),
            Mistake(
                "standard deviation",
                _deviation,
                "The mean is right; you return the standard deviation. Leave the root out: a sampler takes it.",
            ),
        ],
    ),
    Exercise(
        id="samplers.ddim_step",
        lesson="01",
        number=4,
        title="One DDIM step",
        points=5,
        minutes=15,
        difficulty=2,
        case=_ddim,
        gradient=False,  # at eta = 0 some right ways take the root of 0, whose gradient is not finite
        mistakes=[
            Mistake(
                "stays where it is",
                _ddim_stays,
                "You mix image and noise again at the level you come from. The step must end at alpha_bar_prev.",
            ),
            Mistake(
                "no roots",
                _ddim_no_root,
                "The shares of the variance are used as sizes: take the root of ᾱ_prev and of 1 - ᾱ_prev - σ².",
            ),
            Mistake(
                "half of sigma",
                _ddim_half_sigma,
                "Deterministic steps are right. For eta > 0 your σ lacks the factor √((1 - ᾱ_prev) / (1 - ᾱ)): "
                "σ needs both levels twice.",
            ),
            Mistake(
                "too much noise",
                _ddim_too_much,
                "Deterministic steps are right. For eta > 0 you add fresh noise on top: take its variance σ² away "
                "from the predicted noise first.",
            ),
            Mistake(
                "no fresh noise",
                _ddim_no_fresh,
                "The predicted noise makes room for σ², but no fresh noise comes in. Add σ · noise.",
            ),
        ],
    ),
    Exercise(
        id="flow.velocity_target",
        lesson="01",
        number=5,
        title="The velocity of a straight line",
        points=2,
        minutes=5,
        difficulty=1,
        case=_straight,
        mistakes=[
            Mistake(
                "reversed",
                lambda x0, noise: x0 - noise,
                "This points from noise to data: right where time runs that way (Lipman et al., facebookresearch/"
                "flow_matching). Here t = 1 is noise, so the derivative of (1 - t) x0 + t noise is noise - x0.",
            ),
            Mistake(
                "direction only",
                lambda x0, noise: (noise - x0) / (noise - x0).norm(),
                "You return a direction of length 1. A velocity also says how far: the line is walked in one unit of "
                "time, so do not normalise.",
            ),
            Mistake(
                "the middle of the line",
                lambda x0, noise: (noise + x0) / 2,
                "This is a point: the middle of the line. The derivative with respect to t is a difference.",
            ),
            Mistake(
                "squared",
                lambda x0, noise: (noise - x0) ** 2,
                "You return a squared distance. The loss squares later; the target is the difference itself.",
            ),
        ],
    ),
    Exercise(
        id="samplers.heun_step",
        lesson="01",
        number=6,
        title="Look ahead: one Heun step",
        points=4,
        minutes=12,
        difficulty=2,
        case=_heun,
        mistakes=[
            Mistake(
                "Euler",
                lambda velocity, z, t, n: euler_step(z, velocity(z, t), t, n),
                "This is the Euler step. Use it as a trial: ask for the velocity where it lands, at t_next, and walk "
                "again from z along the mean of the two.",
            ),
            Mistake(
                "second look at the old time",
                lambda velocity, z, t, n: _heun_with(velocity, z, t, n, at=t),
                "The second velocity is asked for at t; the trial point lies at t_next.",
            ),
            Mistake(
                "second look at the old place",
                lambda velocity, z, t, n: _heun_with(velocity, z, t, n, stay=True),
                "The second velocity is asked for at z; ask where the Euler step lands.",
            ),
            Mistake(
                "sum, not mean",
                _heun_sum,
                "You add the two velocities, which walks twice as far. Take their mean.",
            ),
            Mistake(
                "from the trial point",
                _heun_twice,
                "The second walk starts at the trial point, so the stride is taken twice. Start from z again.",
            ),
            Mistake(
                "midpoint",
                _midpoint,
                "This is the midpoint rule. It too is of second order, but it looks at half the stride; Heun looks at "
                "the end and takes the mean.",
            ),
        ],
    ),
    Exercise(
        id="flow.logit_normal_times",
        lesson="01",
        number=7,
        title="Train more where it is hard",
        points=3,
        minutes=8,
        difficulty=2,
        case=_times,
        values=False,
        properties=[
            Property("logit-normal", _is_logit_normal),
            Property("the generator", _draws_from_its_generator),
        ],
        mistakes=[
            Mistake(
                "no sigmoid",
                lambda count, g, mean=0.0, std=1.0: mean + std * _draw(count, g),
                "These are normal numbers; many lie outside 0 to 1. The sigmoid brings them in.",
            ),
            Mistake(
                "std as variance",
                lambda count, g, mean=0.0, std=1.0: torch.sigmoid(mean + std**0.5 * _draw(count, g)),
                "The normal numbers have variance std. Multiply by std itself, not by its root.",
            ),
            Mistake(
                "mean outside",
                lambda count, g, mean=0.0, std=1.0: mean + std * torch.sigmoid(_draw(count, g)),
                "Scale and shift the normal numbers *before* the sigmoid; done afterwards they leave 0 to 1.",
            ),
            Mistake(
                "sigmoid of uniform numbers",
                _uniform_sigmoid,
                "torch.rand is uniform, torch.randn is normal: with rand all times lie between two sigmoid values.",
            ),
            Mistake(
                "own randomness",
                lambda count, g, mean=0.0, std=1.0: torch.sigmoid(mean + std * torch.randn(count)),
                "The distribution is right, but the numbers do not come from the generator that was passed: "
                "add generator=generator, or no run can be repeated.",
            ),
        ],
    ),
]

# --- guesses and words -------------------------------------------------------------------------------------------


def _equal_step() -> float:
    return float((Diffusion.linear().alpha_bar < 0.5).nonzero()[0])


QUESTIONS = [
    Question(
        id="noise.q1",
        lesson="01",
        text="DDPM adds noise in 1,000 steps, numbered 0 to 999. At which step are image and noise equally strong?",
        unit="step",
        answer=_equal_step,
        because="β rises in a line, but ᾱ is a product: the image is gone long before the last step.",
    ),
    Question(
        id="flow.q1",
        lesson="01",
        text="A flow is trained on straight lines from data to noise. You take ONE step from noise. Where do you land?",
        choices=("on the data", "near the mean of the data", "anywhere"),
        because="At pure noise nothing is known about the image yet, and the best guess is the mean of all of them.",
    ),
]

PROSE = [
    Prose(
        id="flow.w1",
        lesson="01",
        text='"Flow matching learns straight lines, so one step is enough." What is right in this sentence, what is '
        "wrong, and which number of this lesson shows it?",
        points=3,
        rubric=(
            "the line of each training pair is straight: 1",
            "lines of different pairs cross; the network learns their mean at a point, so the paths bend: 1",
            "quotes a number measured above, with what it measures: 1",
        ),
        min_words=40,
        max_words=130,
    ),
]
