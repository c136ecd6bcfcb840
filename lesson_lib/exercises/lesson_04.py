"""Lesson 04, latents: the Gaussian behind a picture, its loss terms, the scale of latents, and what they save."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lesson_lib import results
from lesson_lib.exercises.compare import kind
from lesson_lib.exercises.core import (
    Case,
    Exercise,
    LessonCard,
    Mistake,
    Property,
    Prose,
    Question,
    clone,
    integers,
    normal,
    uniform,
)
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided
from lesson_lib.samplers import euler
from lesson_lib.vae import AutoencoderKL, VAEConfig, transformer_cost

LESSON = LessonCard(
    number="04",
    slug="latents",
    title="Latents",
    question="Why not diffuse pixels?",
    minutes=110,
    prerequisites=("01", "02", "03"),
)


# --- the Gaussian behind a picture -------------------------------------------------------------------------------


def _gaussian(g: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Draw means and log-variances, as maps and as vectors in turn: an answer must fit both."""
    shape = ((3 + size, 2, 4, 5 + size), (3 + size, 6))[size % 2]
    return 0.7 + normal(g, *shape), uniform(g, *shape, low=-2.5, high=1.5)


def _draws(g: torch.Generator, size: int) -> Case:
    mean, logvar = _gaussian(g, size)
    return Case(mean, logvar, normal(g, *mean.shape))


REPARAMETRISE = Exercise(
    id="vae.reparametrise",
    lesson="04",
    number=1,
    title="Draw so that gradients get through",
    points=2,
    minutes=6,
    difficulty=1,
    case=_draws,
    mistakes=[
        Mistake(
            "variance, not deviation",
            lambda mean, logvar, noise: mean + logvar.exp() * noise,
            "exp(logvar) is the variance. Noise is multiplied by the standard deviation, the variance's root: under "
            "the exponential, a root is a half.",
        ),
        Mistake(
            "half outside",
            lambda mean, logvar, noise: mean + 0.5 * logvar.exp() * noise,
            "The half stands in front of the exponential, so you halve the variance. Inside the exponential the half "
            "takes the root.",
        ),
        Mistake(
            "the logarithm itself",
            lambda mean, logvar, noise: mean + logvar * noise,
            "You multiply by logvar, a logarithm that may be negative. Turn it into a standard deviation first.",
        ),
        Mistake(
            "root of the logarithm",
            lambda mean, logvar, noise: mean + logvar.sqrt() * noise,
            "You take the root of the logarithm, and most logarithms here are negative. The exponential comes first, "
            "the root after.",
        ),
        Mistake(
            "noise drawn inside",
            lambda mean, logvar, noise: mean + torch.exp(0.5 * logvar) * torch.randn_like(mean),
            "The size of the noise is right, but you draw it yourself (randn_like, torch.normal). Use the argument "
            "noise: the caller decides which draw this is, and can repeat it.",
        ),
        Mistake(
            "mean ignored",
            lambda mean, logvar, noise: torch.exp(0.5 * logvar) * noise,
            "You return the noise alone, at its right size. The Gaussian has a mean, around which you draw.",
        ),
        Mistake(
            "mean and noise swapped",
            lambda mean, logvar, noise: noise + torch.exp(0.5 * logvar) * mean,
            "You stretch the mean and leave the noise as it is. The deviation belongs to the noise: it says how far "
            "from the mean a draw may fall.",
        ),
        Mistake(
            "deviation detached",
            lambda mean, logvar, noise: mean + torch.exp(0.5 * logvar).detach() * noise,
            "The numbers are right, but nothing can teach logvar: .detach(), .data or no_grad cuts its gradient. "
            "Letting it through is what this way of drawing is for.",
        ),
    ],
)


def _divergence(g: torch.Generator, size: int) -> Case:
    return Case(*_gaussian(g, size))


def _terms(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar)


def _deviation_terms(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * (mean.square() + logvar.square() - 1 - logvar.square().log())


def _turned_round(mean: Tensor, logvar: Tensor) -> Tensor:
    return 0.5 * ((1 + mean.square()) * (-logvar).exp() - 1 + logvar)


DIVERGENCE = Exercise(
    id="vae.kl_divergence",
    lesson="04",
    number=2,
    title="How far from a standard normal",
    points=3,
    minutes=10,
    difficulty=2,
    case=_divergence,
    mistakes=[
        Mistake(
            "mean, not sum",
            lambda mean, logvar: _terms(mean, logvar).flatten(1).mean(dim=1),
            "You average over a picture's numbers. The divergence of independent numbers is the sum of theirs; with a "
            "mean, the weight of this term would change with the size of the latent.",
        ),
        Mistake(
            "summed over the batch",
            lambda mean, logvar: _terms(mean, logvar).sum(),
            "You sum over the pictures as well. Each has a divergence of its own: keep axis 0 and sum the rest.",
        ),
        Mistake(
            "batch averaged",
            lambda mean, logvar: _terms(mean, logvar).flatten(1).sum(dim=1).mean(),
            "You also average over the batch, as a loss does in the end. Here each picture keeps its own number: (B,).",
        ),
        Mistake(
            "all averaged",
            lambda mean, logvar: _terms(mean, logvar).mean(),
            "mean() without arguments averages over everything. Sum over a picture's numbers, and keep one result for "
            "each picture: (B,).",
        ),
        Mistake(
            "only over channels",
            lambda mean, logvar: _terms(mean, logvar).sum(dim=1),
            "You sum over axis 1 alone, so a map is left for each picture. All axes but the first must go: flatten(1) "
            "makes them one.",
        ),
        Mistake(
            "only over places",
            lambda mean, logvar: _terms(mean, logvar).sum(dim=(2, 3)),
            "You sum over axes 2 and 3: that leaves the channels, and latents that are vectors, (B, D), have no such "
            "axes. All axes but the first must go: flatten(1) makes them one.",
        ),
        Mistake(
            "three axes by number",
            lambda mean, logvar: _terms(mean, logvar).sum(dim=(1, 2, 3)),
            "You name axes 1, 2 and 3, but latents may also be vectors, (B, D). flatten(1) leaves two axes, whatever "
            "came in.",
        ),
        Mistake(
            "sign",
            lambda mean, logvar: -_terms(mean, logvar).flatten(1).sum(dim=1),
            "The sign is the other way round: a divergence is never negative, and training makes it small. (A lower "
            "bound contains −KL, because it is maximised.)",
        ),
        Mistake(
            "no half",
            lambda mean, logvar: 2 * _terms(mean, logvar).flatten(1).sum(dim=1),
            "The factor ½ is missing. It comes from the square in the Gaussian's exponent, and stands before the whole "
            "sum.",
        ),
        Mistake(
            "no minus one",
            lambda mean, logvar: (_terms(mean, logvar) + 0.5).flatten(1).sum(dim=1),
            "The −1 is missing: for mean 0 and variance 1 the divergence must be 0, and yours is ½ for each number.",
        ),
        Mistake(
            "no logarithm",
            lambda mean, logvar: (_terms(mean, logvar) + 0.5 * logvar).flatten(1).sum(dim=1),
            "The term −logvar is missing. Without it nothing keeps the variance from shrinking to 0.",
        ),
        Mistake(
            "mean not squared",
            lambda mean, logvar: 0.5 * (mean + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1),
            "The mean enters without its square, so a negative mean would be rewarded. Its distance from 0 counts.",
        ),
        Mistake(
            "logvar as deviation",
            lambda mean, logvar: _deviation_terms(mean, logvar).flatten(1).sum(dim=1),
            "You square logvar, as if it were a standard deviation. It is the logarithm of the variance: the variance "
            "is its exponential, and the logarithm is already there.",
        ),
        Mistake(
            "logarithm of the deviation",
            lambda mean, logvar: _terms(mean, 2 * logvar).flatten(1).sum(dim=1),
            "There is a factor 2 before logvar: right where the logarithm of the deviation is given. Here it is the "
            "logarithm of the variance.",
        ),
        Mistake(
            "the other direction",
            lambda mean, logvar: _turned_round(mean, logvar).flatten(1).sum(dim=1),
            "This is the divergence of the standard normal from the picture's Gaussian. It is wanted the other way "
            "round; the two are not the same.",
        ),
    ],
)


# --- the scale of latents ----------------------------------------------------------------------------------------


def _latents(g: torch.Generator, size: int) -> Case:
    spread = uniform(g, 3, 1, 1, low=0.5, high=4.0) * (1 + size)
    centre = 1 + 2 * size + normal(g, 3, 1, 1)
    return Case(centre + spread * normal(g, 60 + size, 3, 4, 5 + size))


def _unit_deviation(answer: Callable[[Tensor], float], case: Case) -> str | None:
    (latents,) = case.args
    found = answer(latents.clone())
    if found <= 0:
        return f"you return {found:.4g}; a scale is above 0."
    spread = float((latents * found).std())
    # Dividing by the count or by one less is a matter of taste, and with this many numbers hardly seen.
    if abs(spread - 1) > 1e-3:
        return f"the latents times your {found:.4g} have a standard deviation of {spread:.4g}; it should be 1."
    return None


SCALE = Exercise(
    id="vae.scale_factor",
    lesson="04",
    number=3,
    title="Bring latents to unit size",
    points=2,
    minutes=6,
    difficulty=1,
    case=_latents,
    values=False,
    tolerance=1e-3,
    properties=[Property("unit deviation", _unit_deviation)],
    mistakes=[
        Mistake(
            "not inverted",
            lambda latents: float(latents.std()),
            "You return the standard deviation itself. The latents are multiplied by this number, so it must undo "
            "their deviation: one over it.",
        ),
        Mistake(
            "variance",
            lambda latents: float(1 / latents.var()),
            "You divide by the variance. Multiplying by s multiplies the standard deviation by s, so that is what must "
            "be divided by.",
        ),
        Mistake(
            "root of one over the deviation",
            lambda latents: float(latents.std().rsqrt()),
            "There is a root too many: std is already the root of the variance.",
        ),
        Mistake(
            "root mean square",
            lambda latents: float(latents.square().mean().rsqrt()),
            "You divide by the root mean square, which also grows with the mean. A standard deviation measures the "
            "spread around the mean. (That the mean is not removed says something else: the latents are not shifted.)",
        ),
        Mistake(
            "the largest",
            lambda latents: float(1 / latents.abs().max()),
            "You divide by the largest number, as one does to fit into [−1, 1]. That depends on a single number; noise "
            "has a standard deviation of 1, so the latents are brought to that.",
        ),
        Mistake(
            "the norm",
            lambda latents: float(1 / latents.norm()),
            "You divide by the norm, which grows with every further latent. A standard deviation is an average: it "
            "does not depend on how many latents you have.",
        ),
        Mistake(
            "another autoencoder's",
            lambda latents: 0.18215,
            "0.18215 belongs to the autoencoder of Stable Diffusion 1. Every autoencoder has a scale of its own; "
            "measure it from the latents.",
        ),
        Mistake(
            "per channel",
            lambda latents: 1 / latents.std(dim=(0, 2, 3)),
            "You return one number for each channel. All channels share one, so that their sizes relative to "
            "each other stay as the autoencoder chose them.",
        ),
        Mistake(
            "mean over channels",
            lambda latents: float(1 / latents.std(dim=(0, 2, 3)).mean()),
            "You average the channels' own deviations. That leaves out how far the channels' means lie apart: take "
            "one deviation over all numbers together.",
        ),
        Mistake(
            "mean over pictures",
            lambda latents: float(1 / latents.flatten(1).std(dim=1).mean()),
            "You average the pictures' own deviations. That leaves out how much pictures differ from each other: take "
            "one deviation over all numbers together.",
        ),
        Mistake(
            "still a tensor",
            lambda latents: 1 / latents.std(),
            "The number is right, but it is a tensor. It goes into the autoencoder's configuration as a plain number: "
            "float(…).",
        ),
        Mistake(
            "latents rescaled",
            lambda latents: latents / latents.std(),
            "You return the rescaled latents. Return the number that does it: new latents must be treated alike.",
        ),
    ],
)


# --- the discriminator -------------------------------------------------------------------------------------------


def _logits(g: torch.Generator, size: int) -> Case:
    shape = (2 + size, 1, 3, 4 + size)
    centre = (0.5, 1.6)[size % 2]  # a discriminator that is still unsure, and one that is sure
    return Case(centre + 1.5 * normal(g, *shape), 1.5 * normal(g, *shape) - centre)


HINGE = Exercise(
    id="vae.hinge_loss",
    lesson="04",
    number=4,
    title="Teach the discriminator, with a hinge",
    points=3,
    minutes=8,
    difficulty=1,
    case=_logits,
    mistakes=[
        Mistake(
            "roles swapped",
            lambda real, fake: 0.5 * (F.relu(1 + real).mean() + F.relu(1 - fake).mean()),
            "Real and reconstructed have changed places, or both signs are turned: your discriminator learns to score "
            "real patches low. Real patches cost nothing above 1, reconstructed ones nothing below −1.",
        ),
        Mistake(
            "no hinge",
            lambda real, fake: 0.5 * ((1 - real).mean() + (1 + fake).mean()),
            "There is no max(0, …): a patch that is scored far beyond its limit is still rewarded, and the loss falls "
            "without end.",
        ),
        Mistake(
            "Python's max",
            lambda real, fake: 0.5 * (max(0, 1 - real) + max(0, 1 + fake)),
            "Python's max asks whether a whole tensor is larger than 0, which has no answer. A function of torch "
            "cuts off each number by itself: F.relu, or clamp.",
        ),
        Mistake(
            "subtracted",
            lambda real, fake: 0.5 * (F.relu(1 - real).mean() - F.relu(1 + fake).mean()),
            "You subtract the second term, so the discriminator is paid for scoring reconstructions high. Both terms "
            "are faults, and faults add up.",
        ),
        Mistake(
            "min for max",
            lambda real, fake: 0.5 * ((1 - real).clamp(max=0).mean() + (1 + fake).clamp(max=0).mean()),
            "The clamp cuts off the wrong side: you keep the patches that are judged well. In torch, clamp(min=0) is "
            "what mathematics writes max(0, …).",
        ),
        Mistake(
            "hinge after the mean",
            lambda real, fake: 0.5 * (F.relu(1 - real.mean()) + F.relu(1 + fake.mean())),
            "You average first and cut off after, so that one patch judged too well pays for another judged wrongly. "
            "Each patch has its own hinge; the mean comes last.",
        ),
        Mistake(
            "limit at zero",
            lambda real, fake: 0.5 * (F.relu(-real).mean() + F.relu(fake).mean()),
            "Your hinge opens at 0. The discriminator should leave a margin: real patches above 1, reconstructed ones "
            "below −1.",
        ),
        Mistake(
            "no half",
            lambda real, fake: F.relu(1 - real).mean() + F.relu(1 + fake).mean(),
            "The factor ½ is missing: the loss is the mean of its two terms.",
        ),
        Mistake(
            "sum",
            lambda real, fake: 0.5 * (F.relu(1 - real).sum() + F.relu(1 + fake).sum()),
            "You sum over the patches. Take means, or the loss grows with the batch and with the size of the pictures.",
        ),
        Mistake(
            "not averaged",
            lambda real, fake: 0.5 * (F.relu(1 - real) + F.relu(1 + fake)),
            "You return one number for each patch. A loss is one number: average.",
        ),
        Mistake(
            "logistic",
            lambda real, fake: 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean()),
            "This is the logistic loss, which never quite stops pulling. The hinge is straight, and flat beyond its "
            "limit.",
        ),
        Mistake(
            "the autoencoder's side",
            lambda real, fake: -fake.mean(),
            "This is what the autoencoder minimises in order to fool the discriminator. Here the discriminator itself "
            "learns, from real and reconstructed patches.",
        ),
    ],
)


class _Losses(Case):
    """Two losses of one small network. A graph cannot be copied, so a copy of the case computes them again.

    earlier: what lies before the last layer and could collect gradients too. before: what last_layer.grad holds.
    """

    def __init__(
        self,
        earlier: Tensor,
        last_layer: Tensor,
        target: Tensor,
        liking: Tensor,
        before: Tensor | None,
        *numbers: float,
    ) -> None:
        self.parts = (earlier, last_layer, target, liking, before)
        self.numbers = strength, largest = numbers
        self.earlier, layer = earlier.requires_grad_(), last_layer.requires_grad_()
        layer.grad = before
        made = F.conv2d(self.earlier, layer)
        fooling = -strength * (liking * made.sigmoid()).mean()
        super().__init__(F.l1_loss(made, target), fooling, layer, largest)

    def copy(self, device: str | None = None) -> _Losses:
        fresh = _Losses(*clone(self.parts, device), *self.numbers)
        fresh.seed = self.seed
        return fresh


def _two_losses(g: torch.Generator, size: int) -> Case:
    earlier, layer = normal(g, 2, 4 + size, 6, 8), normal(g, 3, 4 + size, 2, 5) / 4
    made = (2, 3, 5, 4)
    strength, largest = ((1.0, 1e4), (0.1, 0.5), (1e-4, 1e4), (0.3, 50.0))[size % 4]
    before = normal(g, *layer.shape) if size % 2 else None
    return _Losses(earlier, layer, normal(g, *made), uniform(g, *made, low=1.0, high=5.0), before, strength, largest)


def _pulls(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor) -> tuple[Tensor, Tensor]:
    (wanted,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (given,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return wanted, given


def _inverted(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return (given.norm() / (wanted.norm() + 1e-4)).clamp(0, largest)


def _not_clamped(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return wanted.norm() / (given.norm() + 1e-4)


def _losses_divided(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    return (reconstruction / (adversarial + 1e-4)).clamp(0, largest).detach()


def _sizes_divided(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    return (reconstruction.abs() / (adversarial.abs() + 1e-4)).clamp(0, largest).detach()


def _squared(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return (wanted.square().sum() / (given.square().sum() + 1e-4)).clamp(0, largest)


def _sums(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return (wanted.sum() / (given.sum() + 1e-4)).clamp(0, largest)


def _element_by_element(
    reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4
) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return (wanted / (given + 1e-4)).norm().clamp(0, largest)


def _nothing_small(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return (wanted.norm() / given.norm()).clamp(0, largest)


def _small_outside(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted, given = _pulls(reconstruction, adversarial, last_layer)
    return (wanted.norm() / given.norm() + 1e-4).clamp(0, largest)


def _still_packed(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    wanted = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    return wanted.norm()  # type: ignore[attr-defined]


def _graph_freed(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    (wanted,) = torch.autograd.grad(reconstruction, last_layer)
    (given,) = torch.autograd.grad(adversarial, last_layer)
    return (wanted.norm() / (given.norm() + 1e-4)).clamp(0, largest)


def _added_up(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> Tensor:
    norms = []
    for loss in (reconstruction, adversarial):
        loss.backward(retain_graph=True)
        assert last_layer.grad is not None
        norms.append(last_layer.grad.norm())
    return (norms[0] / (norms[1] + 1e-4)).clamp(0, largest)


def _smaller_of_two(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> object:
    return min(_not_clamped(reconstruction, adversarial, last_layer), largest)


def _plain_number(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, largest: float = 1e4) -> object:
    return min(float(_not_clamped(reconstruction, adversarial, last_layer)), largest)


def _leaves_grad_alone(answer: Callable[..., Tensor], case: Case) -> str | None:
    assert isinstance(case, _Losses)
    layer = case.args[2]
    layer.grad = torch.ones_like(layer)
    answer(*case.args)
    if layer.grad is None or not torch.equal(layer.grad, torch.ones_like(layer)):
        return (
            "last_layer.grad is not what it was: backward() adds to it, and zeroing it loses what the training step "
            "has collected. torch.autograd.grad returns a gradient and stores nothing."
        )
    if case.earlier.grad is not None:
        return (
            "the weights before last_layer have received a .grad, which the optimiser would use: backward() goes all "
            "the way down. torch.autograd.grad stops at the tensor you name."
        )
    return None


def _is_a_constant(answer: Callable[..., Tensor], case: Case) -> str | None:
    if answer(*case.args).requires_grad:
        return (
            "the weight carries a gradient of its own. It must count as a constant, or the optimiser lowers the loss "
            "by moving the weight: leave out create_graph, and detach() the result."
        )
    return None


def _graph_survives(answer: Callable[..., Tensor], case: Case) -> str | None:
    reconstruction, adversarial, last_layer, _ = case.args
    answer(*case.args)
    try:
        torch.autograd.grad(reconstruction + adversarial, last_layer)
    except RuntimeError:
        return (
            "after your function the losses cannot be sent back any more, and the training step still has to do that. "
            "Each call to torch.autograd.grad needs retain_graph=True, the second one too."
        )
    return None


WEIGHT = Exercise(
    id="vae.adaptive_weight",
    lesson="04",
    number=5,
    title="Let two losses pull equally hard",
    points=5,
    minutes=14,
    difficulty=3,
    case=_two_losses,
    gradient=False,  # the result has none; the second property asks for that
    properties=[
        Property("nothing stored", _leaves_grad_alone),
        Property("a constant", _is_a_constant),
        Property("the backward pass after it", _graph_survives),
    ],
    mistakes=[
        Mistake(
            "inverted",
            _inverted,
            "The ratio stands upside down: the weaker the discriminator pulls, the less weight you give it. This "
            "weight multiplies the adversarial loss, and should bring its pull to that of the reconstruction.",
        ),
        Mistake(
            "not clamped",
            _not_clamped,
            "The ratio is right, but it is not held below largest. Where the discriminator hardly pulls, the weight "
            "would drown everything else.",
        ),
        Mistake(
            "losses divided",
            _losses_divided,
            "You divide the losses themselves. A loss can be large and pull at nothing: compare the norms of their "
            "gradients with respect to last_layer.",
        ),
        Mistake(
            "sizes of losses divided",
            _sizes_divided,
            "You compare how large the losses are. What moves the weights are gradients: take those of both losses "
            "with respect to last_layer, and compare their norms.",
        ),
        Mistake(
            "squared norms",
            _squared,
            "You divide the squared norms: the root is missing, and a pull ten times as weak gets a weight a hundred "
            "times as large.",
        ),
        Mistake(
            "sums",
            _sums,
            "You add the entries of each gradient, where plus and minus cancel. How hard a gradient pulls is its norm, "
            "the root of the sum of squares.",
        ),
        Mistake(
            "element by element",
            _element_by_element,
            "You divide entry by entry and take the norm after, so the entries that happen to lie near 0 decide. "
            "Take both norms first; then divide two numbers.",
        ),
        Mistake(
            "nothing small added",
            _nothing_small,
            "The small 1e-4 in the denominator is missing. A discriminator that does not pull at all would give a "
            "division by zero.",
        ),
        Mistake(
            "small number outside",
            _small_outside,
            "The 1e-4 is added to the ratio. It belongs to the denominator, where it prevents a division by zero: set "
            "brackets.",
        ),
        Mistake(
            "still packed",
            _still_packed,
            "torch.autograd.grad returns a tuple, one gradient for each tensor you name, also where you name one. "
            "Take its first entry.",
        ),
        Mistake(
            "graph freed",
            _graph_freed,
            "The first call frees the graph that both losses share, and the second needs it. retain_graph=True keeps "
            "it; the training step after you needs it too, so pass it both times.",
        ),
        Mistake(
            "added up in .grad",
            _added_up,
            "backward() adds to last_layer.grad, so the second norm contains the first gradient too, and so does the "
            "optimiser's step. torch.autograd.grad returns each gradient by itself and stores nothing.",
        ),
        Mistake(
            "Python's min",
            _smaller_of_two,
            "Python's min returns largest itself where that is smaller: a number and no tensor. clamp always returns "
            "a tensor.",
        ),
        Mistake(
            "plain number",
            _plain_number,
            "You turn the result into a plain number. float() and item() make a GPU wait at every step; stay in torch "
            "and return a scalar tensor.",
        ),
    ],
)


# --- latent diffusion, end to end --------------------------------------------------------------------------------


class _Velocity(nn.Module):
    """A small stand-in for a denoiser of latents: it hears the place, the time and the class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.mix = nn.Conv2d(channels, channels, 3, padding=1)
        self.label = nn.Embedding(num_classes + 1, channels)

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        told = self.label(labels) * (t[:, None] / 500 - 1)
        return torch.tanh(self.mix(x) + told[:, :, None, None])


class _SmallAutoencoder(AutoencoderKL):
    """An autoencoder that cannot encode, and decodes with two convolutions: quick to copy for every try."""

    def __init__(self, config: VAEConfig) -> None:
        nn.Module.__init__(self)
        self.config = config
        self.post_quant = nn.Conv2d(config.latent_channels, 4, 1)
        self.decoder = nn.Sequential(nn.SiLU(), nn.Upsample(scale_factor=config.factor), nn.Conv2d(4, 3, 3, padding=1))  # type: ignore[assignment]


def _fill(module: nn.Module, g: torch.Generator) -> None:
    """Give every parameter random numbers from the case's generator."""
    for parameter in module.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        parameter.data = normal(g, *parameter.shape) / fan_in**0.5


SCALES = ((0.4, 0.6), (2.5, -0.7), (0.6, -0.9), (1.7, 0.5))


def _latent_diffusion(g: torch.Generator, size: int) -> Case:
    classes, count, (scale, shift) = 3 + size, 3 + size, SCALES[size % 4]
    with torch.random.fork_rng(devices=[]):  # the constructors draw global random numbers, which are the learner's
        denoiser = _Velocity(2, classes)
        vae = _SmallAutoencoder(VAEConfig(channel_mult=(1, 2), latent_channels=2, scale=scale, shift=shift))
    _fill(denoiser, g)
    _fill(vae, g)
    labels, noise = integers(g, count, high=classes), normal(g, count, 2, 4, 5 + size)
    guidance = (2.0, 3.5, 1.0, 1.5)[size % 4]
    return Case(denoiser, vae, labels, noise, 2 + size, RectifiedFlow(shift=1.0 + size), guidance)


def _sampled(
    denoiser: nn.Module,
    vae: AutoencoderKL,
    labels: Tensor,
    noise: Tensor,
    steps: int,
    process: RectifiedFlow,
    guidance_scale: float = 1.0,
) -> Tensor:
    """Return scaled latents: the right first half of the exercise."""
    return euler(Guided(denoiser, labels, guidance_scale), noise, steps, process)


def _decoded(scaled: Callable[[Tensor, float, float], Tensor], clamp: bool = True) -> Callable[..., Tensor]:
    """Return an answer that brings the latents back in the given way, a function of (latents, scale, shift)."""

    def answer(denoiser: nn.Module, vae: AutoencoderKL, *rest: object) -> Tensor:
        latents = _sampled(denoiser, vae, *rest)  # type: ignore[arg-type]
        with torch.no_grad():
            images = vae.decode(scaled(latents, vae.config.scale, vae.config.shift))
        return images.clamp(-1, 1) if clamp else images

    return answer


def _right_images(denoiser: nn.Module, vae: AutoencoderKL, *rest: object) -> Tensor:
    return vae.from_latents(_sampled(denoiser, vae, *rest))  # type: ignore[arg-type]


END_TO_END = Exercise(
    id="vae.sample_images",
    lesson="04",
    number=6,
    title="Latent diffusion, end to end",
    points=4,
    minutes=14,
    difficulty=2,
    case=_latent_diffusion,
    mistakes=[
        Mistake(
            "latents returned",
            _sampled,
            "You return the latents. The last step is missing: the autoencoder turns them into pictures.",
        ),
        Mistake(
            "scale not undone",
            _decoded(lambda latents, scale, shift: latents),
            "You clamp, but decode gets the sampled latents as they are. The denoiser works with (latent − shift) · "
            "scale, and decode knows raw latents: undo both, or call from_latents, which does.",
        ),
        Mistake(
            "straight to decode",
            _decoded(lambda latents, scale, shift: latents, clamp=False),
            "You give the sampled latents to decode as they are. The denoiser works with (latent − shift) · scale, and "
            "decode knows raw latents. from_latents undoes both and clamps.",
        ),
        Mistake(
            "undone twice",
            lambda denoiser, vae, *rest: vae.from_latents(
                _sampled(denoiser, vae, *rest) / vae.config.scale + vae.config.shift
            ),
            "You undo scale and shift, and from_latents does so again. Hand it the latents as the sampler returns "
            "them.",
        ),
        Mistake(
            "scaled again",
            _decoded(lambda latents, scale, shift: latents * scale + shift),
            "You multiply by the scale a second time. The latents were multiplied on the way in; on the way out they "
            "are divided.",
        ),
        Mistake(
            "shift on the wrong side",
            _decoded(lambda latents, scale, shift: (latents + shift) / scale),
            "You add the shift before you divide, so the shift is divided too. On the way in the shift was taken off "
            "first, so on the way out it comes back last.",
        ),
        Mistake(
            "shift taken off",
            _decoded(lambda latents, scale, shift: latents / scale - shift),
            "You take the shift off a second time. It was taken off on the way in; on the way out it is added.",
        ),
        Mistake(
            "no shift",
            _decoded(lambda latents, scale, shift: latents / scale),
            "The scale is undone, the shift is not: every latent is off by the same number.",
        ),
        Mistake(
            "not clamped",
            _decoded(lambda latents, scale, shift: latents / scale + shift, clamp=False),
            "The pictures are decoded rightly but leave [−1, 1]: a decoder's last layer is a convolution, which has no "
            "limits. Clamp the result, or call from_latents.",
        ),
        Mistake(
            "pixels from 0 to 1",
            lambda *given: (_right_images(*given) + 1) / 2,
            "The pictures are right but moved to [0, 1]. Pictures stay in [−1, 1] until they are drawn.",
        ),
        Mistake(
            "no guidance",
            lambda denoiser, vae, labels, noise, steps, process, scale=1.0: vae.from_latents(
                euler(Guided(denoiser, labels), noise, steps, process)
            ),
            "guidance_scale is not used: Guided without a third argument has scale 1.",
        ),
        Mistake(
            "no labels",
            lambda denoiser, vae, labels, noise, steps, process, scale=1.0: vae.from_latents(
                euler(denoiser, noise, steps, process)
            ),
            "The sampler calls its model with two arguments, x and t, and your denoiser wants labels as well. Guided "
            "keeps the labels, and the scale, and makes a model of two arguments.",
        ),
        Mistake(
            "decoded first",
            lambda denoiser, vae, labels, noise, steps, process, scale=1.0: euler(
                Guided(denoiser, labels, scale), vae.from_latents(noise), steps, process
            ),
            "You decode the noise and then walk among pixels. The denoiser knows only latents: walk first, all the "
            "way to time 0, and decode once at the end.",
        ),
        Mistake(
            "noise scaled",
            lambda denoiser, vae, labels, noise, steps, process, scale=1.0: vae.from_latents(
                euler(Guided(denoiser, labels, scale), (noise - vae.config.shift) * vae.config.scale, steps, process)
            ),
            "You scale the noise as if it were a latent. Scaling exists so that latents have the size of the noise; "
            "the noise itself starts as a standard normal, untouched.",
        ),
    ],
)


# --- tokens and cost ---------------------------------------------------------------------------------------------


def _pictures(g: torch.Generator, size: int) -> Case:
    factor = (2, 4, 8, 2)[size % 4]
    patch_size = (3, 2, 2, 5)[size % 4]
    side = 4 + size + int(integers(g, 1, high=5))
    width, depth = 8 * (3 + size) + 8 * int(integers(g, 1, high=4)), 2 + size
    return Case(side * factor * patch_size, factor, patch_size, width, depth)


def _cost(tokens: int, width: int, depth: int, linear: int = 12, pairs: int = 2) -> tuple[int, int]:
    """Return (tokens, MACs) of a transformer, with the slip that a mistake asks for."""
    return tokens, depth * (linear * tokens * width**2 + pairs * tokens**2 * width)


def _counts_whole(answer: Callable[..., tuple[int, int]], case: Case) -> str | None:
    if not all(isinstance(number, int) for number in answer(*case.args)):
        return "tokens and operations are counted, so return whole numbers: / makes a float, // does not."
    return None


def _refuses(answer: Callable[..., tuple[int, int]], case: Case) -> str | None:
    size, factor, patch_size, width, depth = case.args
    for wrong in (size + 1, size + factor):
        try:
            tokens, _ = answer(wrong, factor, patch_size, width, depth)
        except ValueError:
            continue
        except Exception as error:
            return f"{wrong} pixels do not divide by {factor} × {patch_size}: raise a ValueError, not {kind(error)}."
        return (
            f"{wrong} pixels do not divide by {factor} × {patch_size}, but you return {tokens} tokens. "
            "Raise a ValueError that says what does not fit, rather than round."
        )
    return None


COST = Exercise(
    id="vae.transformer_cost",
    lesson="04",
    number=7,
    title="Count tokens and what they cost",
    points=3,
    minutes=10,
    difficulty=2,
    case=_pictures,
    properties=[Property("whole numbers", _counts_whole), Property("what does not divide", _refuses)],
    mistakes=[
        Mistake(
            "area divided once",
            lambda size, f=1, p=1, width=384, depth=12: _cost(size**2 // (f * p), width, depth),
            "You divide the area by f · p. Both are lengths and shrink both sides: the area falls by their squares.",
        ),
        Mistake(
            "one side only",
            lambda size, f=1, p=1, width=384, depth=12: _cost(size // f // p, width, depth),
            "You count the tokens along one side. The picture has two: square it.",
        ),
        Mistake(
            "no patches",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f) ** 2, width, depth),
            "patch_size is not used: p × p places of the latent become one token.",
        ),
        Mistake(
            "no autoencoder",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // p) ** 2, width, depth),
            "factor is not used: the autoencoder makes each side f times as short before patches are cut.",
        ),
        Mistake(
            "factor for one side",
            lambda size, f=1, p=1, width=384, depth=12: _cost(size**2 // f // p**2, width, depth),
            "The patch shrinks both sides, the factor only one. Divide the side by f and by p, then square.",
        ),
        Mistake(
            "no pairs",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f // p) ** 2, width, depth, pairs=0),
            "The term with N² is missing. Every token is compared with every other: that is the part that makes pixels "
            "so expensive.",
        ),
        Mistake(
            "one product",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f // p) ** 2, width, depth, pairs=1),
            "You count one product of N × N. Attention has two: queries with keys, then the weights with the values.",
        ),
        Mistake(
            "attention's layers only",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f // p) ** 2, width, depth, linear=4),
            "You count the four projections of attention and leave out the perceptron, whose two layers are four "
            "times as wide: 4 + 8 in all.",
        ),
        Mistake(
            "no depth",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f // p) ** 2, width, 1),
            "This is one block. There are depth of them.",
        ),
        Mistake(
            "depth on one term",
            lambda size, f=1, p=1, width=384, depth=12: (
                _cost((size // f // p) ** 2, width, 1, pairs=0)[0],
                _cost((size // f // p) ** 2, width, 1, pairs=0)[1]
                + _cost((size // f // p) ** 2, width, depth, linear=0)[1],
            ),
            "depth multiplies the last term only. Every block has its linear layers and its attention: set brackets "
            "around the sum.",
        ),
        Mistake(
            "operations, not pairs of them",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f // p) ** 2, width, 2 * depth),
            "You count multiplications and additions separately (FLOPs). Here one multiply-accumulate counts once, as "
            "in DiT's tables, where they are called Gflops.",
        ),
        Mistake(
            "powers swapped",
            lambda size, f=1, p=1, width=384, depth=12: (
                (size // f // p) ** 2,
                depth * (12 * (size // f // p) ** 4 * width + 2 * (size // f // p) ** 2 * width**2),
            ),
            "The squares have changed places. A linear layer costs width² for each token; a pair of tokens costs "
            "width.",
        ),
        Mistake(
            "order of the pair",
            lambda size, f=1, p=1, width=384, depth=12: _cost((size // f // p) ** 2, width, depth)[::-1],
            "The two numbers have changed places: the tokens come first, then the multiply-accumulates.",
        ),
    ],
)


# --- the way back from latents -----------------------------------------------------------------------------------


def _sampled_latents(g: torch.Generator, size: int) -> Case:
    scale, shift = SCALES[size % 4]
    # One level without further blocks: the class is built anew for every try.
    config = VAEConfig(
        channels=4, channel_mult=(1,), num_res_blocks=1, latent_channels=2, groups=2, scale=scale, shift=shift
    )
    return Case(normal(g, 3 + size, 2, 4, 5 + size), 2 + size, build={"config": config})


def _multiplied(self: AutoencoderKL, latents: Tensor, batch_size: int = 256) -> Tensor:
    parts = [self.decode(batch * self.config.scale + self.config.shift) for batch in latents.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def _brought_back(
    scaled: Callable[[Tensor, float, float], Tensor], clamp: bool = True
) -> Callable[[AutoencoderKL, Tensor, int], Tensor]:
    """Return a from_latents that brings the latents back in the given way, a function of (latents, scale, shift)."""

    def from_latents(self: AutoencoderKL, latents: Tensor, batch_size: int = 256) -> Tensor:
        images = self.decode(scaled(latents, self.config.scale, self.config.shift))
        return images.clamp(-1, 1) if clamp else images

    return from_latents


FROM_LATENTS = Exercise(
    id="vae.latents_bug",
    reference="vae.AutoencoderKL.from_latents",
    lesson="04",
    number=8,
    title="Debug: good latents, wrong pictures",
    points=2,
    minutes=8,
    difficulty=1,
    case=_sampled_latents,
    broken="multiplied",
    mistakes=[
        Mistake(
            "multiplied",
            _multiplied,
            "The latents are multiplied by the scale a second time. to_latents multiplied; the way back divides.",
        ),
        Mistake(
            "shift first",
            _brought_back(lambda latents, scale, shift: (latents + shift) / scale),
            "You divide now, but the shift is added before, so it is divided too. to_latents takes the shift off "
            "first, so the way back adds it last.",
        ),
        Mistake(
            "shift taken off",
            _brought_back(lambda latents, scale, shift: latents / scale - shift),
            "You divide now, but the shift is taken off a second time. to_latents took it off; the way back adds it.",
        ),
        Mistake(
            "half reversed",
            _brought_back(lambda latents, scale, shift: (latents - shift) / scale),
            "You divide now, but you take the shift off, and before dividing. Going back turns both around: each step "
            "becomes its opposite, and the last comes first.",
        ),
        Mistake(
            "to_latents again",
            _brought_back(lambda latents, scale, shift: (latents - shift) * scale),
            "This is what to_latents does, once more. Undo it: the opposite steps, in the opposite order.",
        ),
        Mistake(
            "shift lost",
            _brought_back(lambda latents, scale, shift: latents / scale),
            "You divide now, but the shift is lost: every latent is off by the same number.",
        ),
        Mistake(
            "scale lost",
            _brought_back(lambda latents, scale, shift: latents + shift),
            "Taking the multiplication away is half of the repair: the scale must be undone, not left out.",
        ),
        Mistake(
            "not clamped",
            _brought_back(lambda latents, scale, shift: latents / scale + shift, clamp=False),
            "The latents come back rightly, but the pictures are no longer clamped to [−1, 1]. That line was right.",
        ),
        Mistake(
            "in place",
            _brought_back(lambda latents, scale, shift: latents.div_(scale).add_(shift)),
            "The pictures are right, but /=, += or div_ wrote into the caller's latents; batches of split share their "
            "memory. Make a new tensor.",
        ),
    ],
)

EXERCISES = [REPARAMETRISE, DIVERGENCE, SCALE, HINGE, WEIGHT, END_TO_END, COST, FROM_LATENTS]


# --- guesses and the question in words ---------------------------------------------------------------------------

SHOWN = ("black", "white", "grey", "nothing in particular")


def _best_brightness() -> str:
    """Try every brightness from black (−1) to white (1) against both answers, and name the best by squared error."""
    answers = torch.tensor([-1.0, 1.0])
    tried = torch.linspace(-1, 1, 201)
    error = (tried[:, None] - answers).square().mean(dim=1)
    if float(error.max() - error.min()) < 1e-6:
        return SHOWN[3]
    best = float(tried[error.argmin()])
    return SHOWN[0] if best < -0.5 else SHOWN[1] if best > 0.5 else SHOWN[2]


def _attention_saved() -> float:
    """Compare the pairwise products of attention over 256 × 256 pixels with those over the latents at f = 8."""
    width = 384
    costs = [transformer_cost(256, factor, width=width, depth=1) for factor in (1, 8)]
    pixels, latents = (cost - 12 * tokens * width**2 for tokens, cost in costs)
    return pixels / latents


NEARER = ("pixels", "latents", "no difference is established")


def _pixels_or_latents() -> str:
    """Read from the record whose pictures lie nearer to real ones: a 95 % interval of differences, seed by seed."""
    record = results.load("pixel_latent")
    pairs = zip(record.values("pixel", "fd_judge"), record.values("latent", "fd_judge"), strict=True)
    _, low, high = results.interval([pixel - latent for pixel, latent in pairs])
    return NEARER[1] if low > 0 else NEARER[0] if high < 0 else NEARER[2]


QUESTIONS = [
    Question(
        id="vae.q1",
        lesson="04",
        text="A latent fits two pictures equally well, one all black, one all white, and nothing tells the decoder "
        "which is meant. It is trained with the squared error until it can do no better. What does its picture show?",
        choices=SHOWN,
        answer=_best_brightness,
        because="The squared error is least at the mean of the possible answers, even where no answer looks like it.",
    ),
    Question(
        id="vae.q2",
        lesson="04",
        text="A transformer reads a picture of 256 × 256, one token for each pixel; then an f = 8 latent of it, one "
        "token for each place. By what factor does the cost of attention fall? Count the products between tokens "
        "only (queries with keys, weights with values), not the linear layers.",
        unit="times",
        answer=_attention_saved,
        because="Places fall by f², and pairs of places by f⁴. The linear layers, paid once for each token, fall by f² "
        "only.",
    ),
    Question(
        id="vae.q3",
        lesson="04",
        text="Two diffusion models of shapes are trained with the same number of multiply-accumulates: one on pixels, "
        "one on latents. Whose samples lie nearer to real pictures, by FD-judge?",
        choices=NEARER,
        answer=_pixels_or_latents,
        because="Read from the recorded runs: a difference counts where the paired 95 % interval leaves out 0.",
    ),
]

PROSE = [
    Prose(
        id="vae.w1",
        lesson="04",
        text="An autoencoder's latents have a standard deviation of about 5. One colleague trains a diffusion model on "
        "them without the scale factor, and decodes without it. Another trains with it, and forgets it when decoding. "
        "Neither gets an error message. Say for each what goes wrong, and whether the diffusion model must be trained "
        "again.",
        points=2,
        rubric=(
            "first: the data are several times as strong as the noise, so at almost every time the latent is nearly "
            "clean; most training times teach little, and the schedule no longer fits. It must be trained again (or "
            "its times moved towards the noise): 1",
            "second: the diffusion model is right, but the decoder receives latents several times too small and "
            "returns pictures it was never trained for; one line of the decoding is to be changed, nothing to be "
            "trained: 1",
        ),
        min_words=50,
        max_words=150,
    )
]
