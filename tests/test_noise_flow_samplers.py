"""The processes and samplers: their algebra, their errors, and equality with diffusers on the same fake model."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lesson_lib import flow, noise, samplers
from lesson_lib.flow import RectifiedFlow
from lesson_lib.noise import Diffusion, pixel_log_likelihood, posterior, x0_from_eps

SHAPE = (3, 2, 4, 4)


def fake_model(channels: int = 2):
    """A fixed nonlinear function of picture and time: it stands in for a network, the same for us and for diffusers."""

    def model(x: Tensor, t: Tensor) -> Tensor:
        time = (t.float() / 1000).view(-1, 1, 1, 1)
        out = torch.tanh(0.7 * x + 0.3 * x.flip(3)) * (0.5 + time) - 0.2 * x.roll(1, 2)
        return torch.cat([out, torch.sin(3 * x + time)], 1) if channels == 4 else out

    return model


def normal(seed: int, shape=SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_schedules_match_the_published_ends():
    """alpha_bar at T and the step where signal and noise are equal, as the public code gives them."""
    for betas, last, crossing in [
        (noise.ddpm_linear_betas(), 4.04e-5, 258),
        (noise.ldm_linear_betas(), 4.66e-3, 354),
        (noise.cosine_betas(), 2.4e-9, 495),
    ]:
        alpha_bar = Diffusion(betas).alpha_bar
        assert alpha_bar[-1].item() == pytest.approx(last, rel=0.02)
        assert abs(int((alpha_bar < 0.5).nonzero()[0]) - crossing) <= 2


def test_two_schedules_called_linear_differ():
    assert not torch.allclose(noise.ddpm_linear_betas(), noise.ldm_linear_betas())


def test_schedules_equal_diffusers():
    from diffusers import DDPMScheduler

    for ours, theirs in [
        (noise.ddpm_linear_betas(), DDPMScheduler(beta_schedule="linear")),
        (noise.cosine_betas(), DDPMScheduler(beta_schedule="squaredcos_cap_v2")),
        (
            noise.ldm_linear_betas(),
            DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012),
        ),
    ]:
        torch.testing.assert_close(ours.float(), theirs.betas, rtol=1e-4, atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(st.floats(0.02, 0.98), st.integers(0, 10_000))
def test_conversions_are_inverse(level, seed):
    """Whatever the network predicts, the same picture and the same noise come back."""
    x0, eps = normal(seed), normal(seed + 1)
    alpha_bar = torch.full((3,), level)
    x_t, v = noise.add_noise(x0, eps, alpha_bar), noise.v_target(x0, eps, alpha_bar)
    for got, wanted in [
        (noise.x0_from_eps(x_t, eps, alpha_bar), x0),
        (noise.eps_from_x0(x_t, x0, alpha_bar), eps),
        (noise.x0_from_v(x_t, v, alpha_bar), x0),
        (noise.eps_from_v(x_t, v, alpha_bar), eps),
    ]:
        torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
    z_t, u = flow.interpolate(x0, eps, alpha_bar), flow.velocity_target(x0, eps)
    torch.testing.assert_close(flow.x0_from_velocity(z_t, u, alpha_bar), x0, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(flow.eps_from_velocity(z_t, u, alpha_bar), eps, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(flow.velocity_from_eps(z_t, eps, alpha_bar), u, rtol=1e-3, atol=2e-3)


def test_score_is_the_gradient_of_log_p():
    """For a single data point the noisy density is a Gaussian, whose log-gradient autograd can take."""
    x0, eps, alpha_bar = normal(0), normal(1), torch.tensor([0.3, 0.5, 0.9])
    x_t = noise.add_noise(x0, eps, alpha_bar).requires_grad_()
    a = alpha_bar.view(-1, 1, 1, 1)
    log_p = -((x_t - a.sqrt() * x0) ** 2 / (2 * (1 - a))).sum()
    log_p.backward()
    torch.testing.assert_close(noise.score_from_eps(eps, alpha_bar), x_t.grad, rtol=1e-4, atol=1e-5)


def test_posterior_agrees_with_bayes():
    """Posterior density is proportional to likelihood times prior: compare on a grid of one-dimensional x_prev."""
    bar, bar_prev, x0, x_t = 0.4, 0.6, 0.8, -0.3
    x = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    alpha = bar / bar_prev
    log = -((x_t - math.sqrt(alpha) * x) ** 2) / (2 * (1 - alpha)) - (x - math.sqrt(bar_prev) * x0) ** 2 / (
        2 * (1 - bar_prev)
    )
    weight = torch.softmax(log, 0)
    mean = (weight * x).sum()
    variance = (weight * (x - mean) ** 2).sum()
    one = lambda value: torch.tensor([value], dtype=torch.float64)  # noqa: E731
    got = noise.posterior(one(x0), one(x_t), one(bar), one(bar_prev))
    torch.testing.assert_close(got[0], mean[None], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(got[1], variance[None], rtol=1e-4, atol=1e-6)


def run_diffusers(scheduler, model, x, generator, **step):
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t.expand(len(x))), t, x, generator=generator, **step).prev_sample
    return x


@pytest.mark.parametrize("prediction", noise.PREDICTIONS)
@pytest.mark.parametrize("steps", [7, 50])
@pytest.mark.parametrize("clip", [False, True])
def test_ddpm_equals_diffusers(prediction, steps, clip):
    from diffusers import DDPMScheduler

    name = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}[prediction]
    theirs = DDPMScheduler(prediction_type=name, clip_sample=clip)
    theirs.set_timesteps(steps)
    process = Diffusion.linear(prediction=prediction, clip=clip)
    assert process.grid(steps).tolist() == theirs.timesteps.tolist()
    wanted = run_diffusers(theirs, fake_model(), normal(0), torch.Generator().manual_seed(5))
    got = samplers.ddpm(fake_model(), normal(0), steps, process, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("ours", "theirs_name"), [("large", "fixed_large"), ("learned", "learned_range")])
def test_ddpm_variances_equal_diffusers(ours, theirs_name):
    from diffusers import DDPMScheduler

    channels = 4 if ours == "learned" else 2
    theirs = DDPMScheduler(clip_sample=False, variance_type=theirs_name)
    theirs.set_timesteps(25)
    wanted = run_diffusers(theirs, fake_model(channels), normal(0), torch.Generator().manual_seed(5))
    process = Diffusion.linear(variance=ours)
    got = samplers.ddpm(fake_model(channels), normal(0), 25, process, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("spacing", noise.SPACINGS)
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ddim_equals_diffusers(eta, spacing, prediction):
    from diffusers import DDIMScheduler

    name = {"eps": "epsilon", "v": "v_prediction"}[prediction]
    theirs = DDIMScheduler(clip_sample=False, timestep_spacing=spacing, prediction_type=name)
    theirs.set_timesteps(20)
    process = Diffusion.linear(prediction=prediction)
    grid = process.grid(20, spacing)
    assert grid.tolist() == theirs.timesteps.tolist()
    wanted = run_diffusers(theirs, fake_model(), normal(0), torch.Generator().manual_seed(5), eta=eta)
    got = samplers.ddim(fake_model(), normal(0), grid, process, eta=eta, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_ddim_clips_as_diffusers_with_recomputed_noise():
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(clip_sample=True)
    theirs.set_timesteps(10)
    wanted = run_diffusers(theirs, fake_model(), normal(0), None, use_clipped_model_output=True)
    got = samplers.ddim(fake_model(), normal(0), 10, Diffusion.linear(clip=True))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_euler_equals_diffusers(shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / 12, 12).tolist())
    wanted = run_diffusers(theirs, fake_model(), normal(0), None)
    got = samplers.euler(fake_model(), normal(0), 12, RectifiedFlow(shift=shift))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_heun_equals_diffusers(shift):
    """diffusers builds its own grid, ending above zero; we walk the same one."""
    from diffusers import FlowMatchHeunDiscreteScheduler

    theirs = FlowMatchHeunDiscreteScheduler(shift=shift)
    theirs.set_timesteps(9)
    grid = torch.cat([theirs.sigmas[:1], theirs.sigmas[1:-1:2], theirs.sigmas[-1:]])
    wanted = run_diffusers(theirs, fake_model(), normal(0), None)
    got = samplers.heun(fake_model(), normal(0), grid, RectifiedFlow(shift=shift))
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5)


def test_heun_is_second_order_and_euler_first():
    """Halving the stride quarters Heun's error and halves Euler's, on dz/dt = z whose solution is known."""
    start = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    exact = math.exp(-1)
    model = lambda z, t: z  # noqa: E731
    error = {
        (sampler, n): abs(float(sampler(model, start, n, RectifiedFlow())) - exact)
        for sampler in (samplers.euler,)
        for n in (20, 40)
    }
    assert error[samplers.euler, 20] / error[samplers.euler, 40] == pytest.approx(2, abs=0.1)
    grid = lambda n: torch.linspace(1, 0.2, n + 1, dtype=torch.float64)  # noqa: E731
    heun = [abs(float(samplers.heun(model, start, grid(n), RectifiedFlow())) - math.exp(-0.8)) for n in (20, 40)]
    assert heun[0] / heun[1] == pytest.approx(4, abs=0.2)


def test_calls_of_the_model_are_counted_as_documented():
    for sampler, process, wanted in [
        (samplers.ddpm, Diffusion.linear(), 6),
        (samplers.ddim, Diffusion.linear(), 6),
        (samplers.euler, RectifiedFlow(), 6),
        (samplers.heun, RectifiedFlow(), 11),
    ]:
        calls = []

        def model(x, t, calls=calls):
            calls.append(t)
            assert t.shape == (3,)
            assert 0 <= float(t.min()) <= float(t.max()) <= 1000
            return torch.zeros_like(x)

        path = sampler(model, normal(0), 6, process, generator=torch.Generator().manual_seed(0), trajectory=True)
        assert len(calls) == wanted
        assert path.shape == (7, *SHAPE)
        torch.testing.assert_close(path[0], normal(0))
        final = sampler(model, normal(0), 6, process, generator=torch.Generator().manual_seed(0), progress=True)
        torch.testing.assert_close(path[-1], final)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim"])
def test_exact_noise_leads_back_to_the_data(sampler):
    """A model that knows the only data point sends every noise to it."""
    target, process = normal(3), Diffusion.linear()

    def oracle(x, t):
        bar = process.alpha_bar_at(t.round().long())
        return noise.eps_from_x0(x, target, bar)

    got = samplers.SAMPLERS[sampler](oracle, normal(0), 100, process, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(got, target, rtol=1e-3, atol=1e-3)


def test_training_pairs_teach_what_samplers_use():
    """The target of each prediction, put back through the process, gives the clean picture."""
    x0, eps = normal(0), normal(1)
    for prediction in noise.PREDICTIONS:
        process = Diffusion.cosine(prediction=prediction)
        t = torch.tensor([10, 400, 900])
        x_t, target = process.training_pair(x0, eps, t)
        back, _ = process.predicted_x0_eps(target, x_t, process.alpha_bar_at(t))
        torch.testing.assert_close(back, x0, rtol=1e-3, atol=1e-3)
    t = torch.tensor([0.1, 0.5, 0.9])
    z_t, u = RectifiedFlow().training_pair(x0, eps, t)
    torch.testing.assert_close(flow.x0_from_velocity(z_t, u, t), x0, rtol=1e-4, atol=1e-5)


def test_logit_normal_has_the_published_density():
    """A histogram of a million draws against the density of SD3 §3.1."""
    t = flow.logit_normal_times(1_000_000, torch.Generator().manual_seed(0), mean=0.5, std=0.6)
    edges = torch.linspace(0.05, 0.95, 19)
    counts = torch.histogram(t, edges)[0] / len(t) / (edges[1] - edges[0])
    middle = (edges[1:] + edges[:-1]) / 2
    density = torch.exp(-((torch.logit(middle) - 0.5) ** 2) / (2 * 0.36)) / (
        0.6 * math.sqrt(2 * math.pi) * middle * (1 - middle)
    )
    torch.testing.assert_close(counts, density, rtol=0.05, atol=0.02)


def test_mode_times_cover_the_line_and_refuse_to_fold():
    generator = torch.Generator().manual_seed(0)
    t = flow.mode_times(10_000, generator, 1.29)
    assert 0 <= float(t.min()) < 0.02
    assert 0.98 < float(t.max()) <= 1
    torch.testing.assert_close(
        flow.mode_times(100, torch.Generator().manual_seed(1), 0.0),
        1 - torch.rand(100, generator=torch.Generator().manual_seed(1)),
    )
    with pytest.raises(ValueError, match="scale is 2"):
        flow.mode_times(4, generator, 2.0)


def test_shift_matches_the_published_table():
    got = flow.shift_times(torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), 3.0)
    torch.testing.assert_close(got, torch.tensor([0, 0.25, 0.5, 0.75, 0.9, 0.9643, 1]), rtol=1e-3, atol=1e-4)
    assert flow.flux_shift(256) == pytest.approx(1.65, abs=0.01)
    assert flow.flux_shift(4096) == pytest.approx(3.16, abs=0.01)


def test_wrong_calls_get_a_sentence():
    model = fake_model()
    with pytest.raises(TypeError, match="goes with euler and heun"):
        samplers.ddpm(model, normal(0), 5, RectifiedFlow())
    with pytest.raises(TypeError, match="goes with ddpm and ddim"):
        samplers.euler(model, normal(0), 5, Diffusion.linear())
    with pytest.raises(ValueError, match="from 1 to 1000"):
        samplers.ddim(model, normal(0), 0, Diffusion.linear())
    with pytest.raises(ValueError, match="must fall"):
        samplers.ddim(model, normal(0), torch.tensor([1, 5]), Diffusion.linear())
    with pytest.raises(ValueError, match="fall from the noise"):
        samplers.heun(model, normal(0), torch.tensor([0.1, 0.5]), RectifiedFlow())
    with pytest.raises(ValueError, match="eps, x0, v"):
        Diffusion.linear(prediction="epsilon")
    with pytest.raises(ValueError, match="small, large, learned"):
        Diffusion.linear(variance="fixed")
    with pytest.raises(ValueError, match="between 0 and 1"):
        Diffusion(torch.tensor([0.1, 1.5]))
    with pytest.raises(ValueError, match="uniform, logit-normal, mode"):
        RectifiedFlow(time="normal")
    with pytest.raises(ValueError, match="one coefficient for each of 3 images"):
        noise.add_noise(normal(0), normal(1), torch.rand(3, 1))
    with pytest.raises(ValueError, match="from -1 to 999"):
        Diffusion.linear().alpha_bar_at(torch.tensor([1000]))
    with pytest.raises(ValueError, match="leading, trailing"):
        Diffusion.linear().grid(10, "even")
    with pytest.raises(ValueError, match="at least 1"):
        RectifiedFlow().grid(0)


def variational_by_the_definition(process, eps, v, x0, x_t, t):
    """The divergence of two Gaussians by torch.distributions; at step 0 the probability of each pixel's interval."""
    later = t.clamp(min=1)
    alpha_bar, before = process.alpha_bar_at(t), process.alpha_bar_at(t - 1)
    wanted, _ = posterior(x0.double(), x_t.double(), alpha_bar, before)
    _, smallest = posterior(x0.double(), x_t.double(), process.alpha_bar_at(later), process.alpha_bar_at(later - 1))
    clean = x0_from_eps(x_t.double(), eps.double(), alpha_bar)
    mean, _ = posterior(clean, x_t.double(), alpha_bar, before)
    beta = (1 - alpha_bar / before).view(-1, 1, 1, 1)
    share = (v.double() + 1) / 2
    std = (share * beta.log() + (1 - share) * smallest.log()).exp().sqrt()
    true = torch.distributions.Normal(wanted, smallest.sqrt().expand_as(wanted))
    found = torch.distributions.kl_divergence(true, torch.distributions.Normal(mean, std))
    below, above = x0.double() - 1 / 255, x0.double() + 1 / 255
    below, above = below.masked_fill(x0 < -0.999, -torch.inf), above.masked_fill(x0 > 0.999, torch.inf)
    network = torch.distributions.Normal(mean, std)
    pixels = -(network.cdf(above) - network.cdf(below)).clamp(min=1e-12).log()
    return torch.where(t.view(-1, 1, 1, 1) == 0, pixels, found).flatten(1).mean(dim=1) / math.log(2)


@pytest.mark.parametrize("process", [Diffusion.linear(variance="learned"), Diffusion.cosine(variance="learned")])
def test_the_variational_term_is_the_divergence_of_two_steps(process):
    g = torch.Generator().manual_seed(0)
    t = torch.tensor([0, 0, 1, 2, 40, 500, 998, 999])
    x0 = torch.randint(256, (8, 2, 4, 4), generator=g) / 127.5 - 1
    x0[0, 0, 0] = torch.tensor([-1.0, 1.0, -1.0, 1.0])
    noise, v = torch.randn(x0.shape, generator=g), torch.rand(x0.shape, generator=g) * 2 - 1
    x_t, _ = process.training_pair(x0, noise, t)
    eps = noise + 0.05 * torch.randn(x0.shape, generator=g)
    found = process.variational_term(eps, v, x0, x_t, t)
    torch.testing.assert_close(
        found.double(), variational_by_the_definition(process, eps, v, x0, x_t, t), rtol=2e-3, atol=1e-4
    )


def test_the_right_step_with_the_smallest_variance_costs_nothing():
    process, g = Diffusion.linear(variance="learned"), torch.Generator().manual_seed(0)
    x0, noise, t = torch.rand(6, 1, 4, 4, generator=g), torch.randn(6, 1, 4, 4, generator=g), torch.arange(1, 7)
    x_t, _ = process.training_pair(x0, noise, t)
    term = process.variational_term(noise, -torch.ones_like(noise), x0, x_t, t)
    torch.testing.assert_close(term, torch.zeros(6), rtol=0, atol=1e-6)
    assert (process.variational_term(noise, torch.ones_like(noise), x0, x_t, t) > term).all()


def test_the_probabilities_of_all_pixel_values_sum_to_one():
    values = torch.arange(256, dtype=torch.float64) / 127.5 - 1
    for mean, std in ((-1.3, 0.5), (0.2, 0.01), (0.9, 0.3)):
        total = pixel_log_likelihood(values, torch.full_like(values, mean), torch.full_like(values, std)).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-6)
