"""The autoencoder and its losses against closed forms, hand-computed gradients and steps written out; its cost."""

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal
from torch.distributions import kl_divergence as torch_kl

from lesson_lib.attention import SelfAttention
from lesson_lib.evaluate import Judge, count_macs, load_judge, psnr, sharpness
from lesson_lib.flow import RectifiedFlow
from lesson_lib.shapes import shapes
from lesson_lib.train import fit, load_model, save_model
from lesson_lib.unet import ResBlock, UNet, UNetConfig
from lesson_lib.vae import (
    Adversaries,
    AutoencoderKL,
    PatchDiscriminator,
    VAEConfig,
    adaptive_weight,
    autoencoder_loss,
    hinge_loss,
    kl_divergence,
    perceptual_distance,
    reparametrise,
    sample_images,
    scale_factor,
    transformer_cost,
)

SEEDS = st.integers(0, 10_000)
TINY = VAEConfig(channels=8, channel_mult=(1, 1), latent_channels=2, groups=4)
change = dataclasses.replace


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed))


def randomise(module: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter, zero-initialised ones too, at a size that keeps the activations near 1."""
    source = generator(seed)
    for parameter in module.parameters():
        size = parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.3
        parameter.data = torch.randn(parameter.shape, generator=source) * size
    return module


class TestTheGaussian:
    def test_draws_have_the_asked_mean_and_variance(self):
        mean, logvar = torch.tensor([-1.0, 0.0, 3.0]), torch.tensor([-2.0, 0.0, 1.5])
        drawn = reparametrise(mean.expand(100_000, 3), logvar.expand(100_000, 3), normal(100_000, 3))
        error = (logvar / 2).exp() / 100_000**0.5
        assert ((drawn.mean(dim=0) - mean).abs() < 4 * error).all()
        torch.testing.assert_close(drawn.var(dim=0), logvar.exp(), rtol=0.02, atol=0)

    @settings(max_examples=20, deadline=None)
    @given(SEEDS)
    def test_gradients_reach_mean_and_variance(self, seed):
        mean, logvar, noise = normal(3, 2, 3, 4, seed=seed)
        mean, logvar = mean.requires_grad_(), logvar.requires_grad_()
        drawn = reparametrise(mean, logvar, noise)
        for_mean, for_logvar = torch.autograd.grad(drawn.sum(), (mean, logvar))
        torch.testing.assert_close(for_mean, torch.ones_like(mean))
        torch.testing.assert_close(for_logvar, noise * (logvar / 2).exp() / 2, rtol=1e-5, atol=1e-6)
        assert torch.equal(reparametrise(mean, logvar, torch.zeros_like(noise)), mean)

    @settings(max_examples=30, deadline=None)
    @given(SEEDS, st.integers(1, 4), st.floats(0.1, 3))
    def test_divergence_equals_torch_and_is_never_negative(self, seed, batch, spread):
        mean, logvar = normal(2, batch, 2, 3, 3, seed=seed) * spread
        found = kl_divergence(mean, logvar)
        wanted = torch_kl(Normal(mean, (logvar / 2).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2, 3))
        assert found.shape == (batch,)
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
        assert (found > 0).all()

    def test_divergence_equals_a_monte_carlo_estimate(self):
        mean, logvar = torch.tensor([[0.7, -1.2]]), torch.tensor([[-1.0, 0.8]])
        z = reparametrise(mean, logvar, normal(200_000, 2))
        ratio = Normal(mean, (logvar / 2).exp()).log_prob(z).sum(dim=1) - Normal(0.0, 1.0).log_prob(z).sum(dim=1)
        error = ratio.std() / len(ratio) ** 0.5
        assert error < 0.01
        assert abs(kl_divergence(mean, logvar)[0] - ratio.mean()) < 4 * error

    def test_divergence_is_zero_and_flat_at_the_standard_normal(self):
        mean, logvar = torch.zeros(2, 3, 4, requires_grad=True), torch.zeros(2, 3, 4, requires_grad=True)
        divergence = kl_divergence(mean, logvar)
        assert divergence.tolist() == [0, 0]
        for gradient in torch.autograd.grad(divergence.sum(), (mean, logvar)):
            assert gradient.abs().max() == 0


class TestScale:
    @settings(max_examples=30, deadline=None)
    @given(SEEDS, st.floats(0.01, 100), st.floats(-5, 5))
    def test_factor_gives_a_standard_deviation_of_one_and_keeps_the_mean(self, seed, spread, mean):
        latents = spread * (normal(8, 4, 3, 3, seed=seed) + mean)
        factor = scale_factor(latents)
        assert isinstance(factor, float)
        assert (latents * factor).std().item() == pytest.approx(1, rel=1e-4)
        assert scale_factor(latents * 2) == pytest.approx(factor / 2, rel=1e-4)
        assert scale_factor(latents + spread) == pytest.approx(factor, rel=1e-3)

    def test_all_channels_share_one_number(self):
        latents = normal(500, 2, 2, 2) * torch.tensor([1.0, 3.0])[:, None, None]
        assert scale_factor(latents) == pytest.approx(5**-0.5, rel=0.03)

    @settings(max_examples=10, deadline=None)
    @given(SEEDS, st.floats(0.1, 8), st.floats(-2, 2), st.integers(1, 5))
    def test_to_latents_and_from_latents_are_inverse_whatever_scale_shift_and_batch(
        self, seed, scale, shift, batch_size
    ):
        vae = randomise(AutoencoderKL(change(TINY, scale=scale, shift=shift)), seed)
        images = normal(5, 3, 4, 6, seed=seed).clamp(-1, 1)
        with torch.no_grad():
            mean, _ = vae.encode(images)
            pictures = vae.decode(mean).clamp(-1, 1)
        latents = vae.to_latents(images, batch_size=batch_size)
        torch.testing.assert_close(latents, (mean - shift) * scale, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(vae.from_latents(latents, batch_size=batch_size), pictures, rtol=1e-3, atol=1e-3)
        assert not latents.requires_grad

    def test_latents_can_be_drawn_and_their_noise_does_not_depend_on_the_batch(self):
        vae, images = randomise(AutoencoderKL(change(TINY, scale=2.0, shift=0.5))), normal(6, 3, 8, 8)
        with torch.no_grad():
            mean, logvar = vae.encode(images)
        wanted = (mean + (logvar / 2).exp() * normal(*mean.shape, seed=5) - 0.5) * 2
        for batch_size in (256, 6, 2, 1):
            drawn = vae.to_latents(images, generator(5), batch_size)
            torch.testing.assert_close(drawn, wanted, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(drawn, vae.to_latents(images), atol=0.1)
        assert not torch.allclose(drawn, vae.to_latents(images, generator(6)), atol=0.1)

    def test_pictures_from_latents_lie_in_the_range_of_pictures(self):
        vae = randomise(AutoencoderKL(TINY))
        vae.decoder.leave.bias.data += 3
        made = vae.from_latents(normal(2, 2, 4, 4))
        assert made.max() == 1
        assert made.min() >= -1
        assert vae.decode(normal(2, 2, 4, 4)).max() > 1


class TestAutoencoder:
    @settings(max_examples=15, deadline=None)
    @given(
        st.integers(1, 4), st.integers(1, 2), st.integers(1, 4), st.integers(1, 5), st.integers(1, 2), st.integers(1, 2)
    )
    def test_shapes_for_every_factor(self, levels, blocks, channels, latent_channels, rows, columns):
        config = change(TINY, in_channels=channels, channel_mult=(1, 2, 1, 2)[:levels], num_res_blocks=blocks,
                        latent_channels=latent_channels)  # fmt: skip
        assert config.factor == 2 ** (levels - 1)
        vae, images = AutoencoderKL(config), normal(2, channels, rows * config.factor, columns * config.factor)
        made, mean, logvar = vae(images)
        assert mean.shape == logvar.shape == (2, latent_channels, rows, columns)
        assert made.shape == vae.decode(mean).shape == images.shape
        for half, more in ((vae.encoder.down, 0), (vae.decoder.up, 1)):
            assert sum(isinstance(part, ResBlock) for part in half) == levels * (blocks + more)
            assert len(half) == levels * (blocks + more) + levels - 1

    def test_forward_takes_the_mean_or_a_draw(self):
        vae, images, noise = randomise(AutoencoderKL(TINY)), normal(2, 3, 8, 8), normal(2, 2, 4, 4)
        made, mean, logvar = vae(images)
        assert torch.equal(made, vae.decode(mean))
        drawn, *_ = vae(images, noise)
        assert torch.equal(drawn, vae.decode(reparametrise(mean, logvar, noise)))
        assert not torch.allclose(drawn, made, atol=1e-3)

    @pytest.mark.parametrize(("bias", "limit"), [(1000.0, 20), (-1000.0, -30)])
    def test_the_log_variance_is_clamped(self, bias, limit):
        vae = AutoencoderKL(TINY)
        vae.quant.bias.data[:] = bias
        mean, logvar = vae.encode(normal(1, 3, 4, 4))
        assert (logvar == limit).all()
        assert mean.abs().min() > 900

    def test_every_weight_learns(self):
        vae = randomise(AutoencoderKL(TINY))
        made, mean, logvar = vae(normal(2, 3, 8, 8), normal(2, 2, 4, 4))
        ((made * normal(*made.shape, seed=1)).sum() + kl_divergence(mean, logvar).sum()).backward()
        for name, weight in vae.named_parameters():
            assert weight.grad.abs().max() > 0, name

    def test_ldm_s_autoencoder_has_the_published_size(self):
        with torch.device("meta"):
            vae = AutoencoderKL(VAEConfig.ldm_kl_f8())
        assert sum(weight.numel() for weight in vae.parameters()) == 83_653_863
        assert (vae.config.factor, vae.config.scale) == (8, 0.18215)
        mean, _ = vae.encode(torch.zeros(1, 3, 256, 256, device="meta"))
        assert mean.shape == (1, 4, 32, 32)

    def test_saves_and_loads(self, tmp_path):
        vae, images = randomise(AutoencoderKL(change(TINY, scale=0.7, shift=-0.2))), normal(2, 3, 8, 8)
        save_model(tmp_path / "vae.safetensors", vae, dataclasses.asdict(vae.config), half=False)
        loaded = load_model(tmp_path / "vae.safetensors", lambda config: AutoencoderKL(VAEConfig(**config)))
        assert torch.equal(loaded.to_latents(images), vae.to_latents(images))

    def test_runs_in_bfloat16_and_stays_close(self):
        vae, images = randomise(AutoencoderKL(TINY)), normal(2, 3, 8, 8)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            half = vae(images)[0]
        full = vae(images)[0].detach()
        assert (half.float() - full).norm() < 0.05 * full.norm()


class TestPerceptualDistance:
    @settings(max_examples=20, deadline=None)
    @given(SEEDS, st.floats(0.01, 100))
    def test_is_zero_on_itself_symmetric_and_blind_to_the_length_of_features(self, seed, length):
        ours = [normal(3, 4, 5, 5, seed=seed), normal(3, 8, 2, 3, seed=seed + 1)]
        real = [normal(3, 4, 5, 5, seed=seed + 2), normal(3, 8, 2, 3, seed=seed + 3)]
        distance = perceptual_distance(ours, real)
        assert distance.shape == (3,)
        assert perceptual_distance(ours, ours).abs().max() == 0
        torch.testing.assert_close(perceptual_distance(real, ours), distance)
        longer = [part * length for part in ours]
        torch.testing.assert_close(perceptual_distance(longer, real), distance, rtol=1e-3, atol=1e-3)
        assert (distance > 0).all()

    def test_equals_a_loop_over_the_places(self):
        ours, real = normal(2, 2, 4, 3, 5)
        for b in range(2):
            places = []
            for row in range(3):
                for column in range(5):
                    a, c = ours[b, :, row, column], real[b, :, row, column]
                    places.append(((a / a.norm() - c / c.norm()) ** 2).sum().item())
            found = perceptual_distance([ours, ours], [real, real])[b].item()
            assert found == pytest.approx(2 * sum(places) / len(places), rel=1e-5)

    def test_opposite_features_are_four_apart_in_every_layer(self):
        ours = [normal(2, 4, 3, 3), normal(2, 6, 2, 2)]
        torch.testing.assert_close(perceptual_distance(ours, [-part for part in ours]), torch.full((2,), 8.0))

    def test_refuses_lists_of_different_length(self):
        with pytest.raises(ValueError, match="shorter"):
            perceptual_distance([normal(1, 2, 2, 2)] * 2, [normal(1, 2, 2, 2)])


class TestAdversary:
    @settings(max_examples=30, deadline=None)
    @given(SEEDS, st.floats(0.1, 3))
    def test_hinge_equals_its_formula(self, seed, spread):
        real, fake = normal(2, 3, 1, 2, 2, seed=seed) * spread
        wanted = sum(max(0.0, 1 - r) for r in real.flatten().tolist()) / real.numel()
        wanted += sum(max(0.0, 1 + f) for f in fake.flatten().tolist()) / fake.numel()
        assert hinge_loss(real, fake).item() == pytest.approx(wanted / 2, rel=1e-5, abs=1e-6)

    @settings(max_examples=20, deadline=None)
    @given(SEEDS)
    def test_hinge_is_zero_and_flat_exactly_where_the_margins_hold(self, seed):
        real, fake = 1 + normal(6, seed=seed).abs(), -1 - normal(6, seed=seed + 1).abs()
        real, fake = real.requires_grad_(), fake.requires_grad_()
        loss = hinge_loss(real, fake)
        assert loss == 0
        assert all(gradient.abs().max() == 0 for gradient in torch.autograd.grad(loss, (real, fake)))
        inside = real.detach().clone()
        inside[2] = 0.5
        assert hinge_loss(inside, fake).item() == pytest.approx(0.5 * 0.5 / 6)
        assert hinge_loss(fake, real).item() > 1

    def test_one_logit_for_each_patch(self):
        discriminator = PatchDiscriminator(1, channels=8)
        assert discriminator(normal(2, 1, 16, 24)).shape == (2, 1, 4, 6)

    @settings(max_examples=20, deadline=None)
    @given(SEEDS, st.floats(0.1, 10))
    def test_adaptive_weight_is_the_ratio_of_hand_computed_gradients(self, seed, pull):
        last = normal(4, 3, seed=seed).requires_grad_()
        reconstruction = 2 * last.square().sum()  # gradient 4 w
        adversarial = pull * (last * normal(4, 3, seed=seed + 1)).sum()  # gradient pull · direction
        found = adaptive_weight(reconstruction, adversarial, last)
        given = (pull * normal(4, 3, seed=seed + 1)).norm()
        assert found.item() == pytest.approx((4 * last.detach().norm() / (given + 1e-4)).item(), rel=1e-4)
        assert not found.requires_grad
        assert last.grad is None
        largest = found.item() / 2
        assert adaptive_weight(reconstruction, adversarial, last, largest).item() == pytest.approx(largest)

    def test_adaptive_weight_at_its_ends(self):
        last = torch.ones(3, requires_grad=True)
        faint, loud = 1e-9 * last.sum(), 1e3 * last.sum()
        assert adaptive_weight(loud, faint, last).item() == 1e4
        assert adaptive_weight(0 * last.sum(), loud, last).item() == 0
        (loud + faint).backward()  # the graphs are still there

    def test_criticism_reaches_the_pictures_and_not_the_critic(self):
        both = Adversaries(AutoencoderKL(TINY), randomise(PatchDiscriminator(3, channels=8)))
        images = normal(2, 3, 8, 8).requires_grad_()
        logits = both.criticise(images)
        torch.testing.assert_close(logits, both.discriminator(images))
        logits.sum().backward()
        assert images.grad.abs().max() > 0
        assert all(weight.grad is None for weight in both.discriminator.parameters())
        assert all(weight.requires_grad for weight in both.discriminator.parameters())


def edges(images: Tensor) -> list[Tensor]:
    """Stand in for a network's features: the picture, and its differences, as maps."""
    return [images, torch.cat([images.diff(dim=2)[..., 1:], images.diff(dim=3)[:, :, 1:]], dim=1)]


class TestLoss:
    def written_out(self, model: Any, images: Tensor, seed: int, pixel: str, kl: float, perceptual: float, fool: float):
        """The loss of a batch from its parts: (what moves the autoencoder, what moves the discriminator)."""
        vae = model.vae
        mean, logvar = vae.encode(images)
        made = vae.decode(mean + (logvar / 2).exp() * normal(*mean.shape, seed=seed))
        numbers = images[0].numel()
        difference = (made - images).abs() if pixel == "l1" else (made - images) ** 2
        likelihood = difference.flatten(1).sum(dim=1).mean() / numbers
        if perceptual:
            likelihood = likelihood + perceptual * perceptual_distance(edges(made), edges(images)).mean()
        divergence = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).flatten(1).sum(dim=1).mean()
        total, caught = likelihood + kl * divergence / numbers, torch.zeros(())
        if fool:
            fooling = -model.discriminator(made).mean()
            total = total + fool * adaptive_weight(likelihood, fooling, vae.decoder.leave.weight) * fooling
            caught = hinge_loss(model.discriminator(images), model.discriminator(made.detach()))
        return total, caught

    @settings(max_examples=10, deadline=None)
    @given(
        SEEDS,
        st.sampled_from(["l1", "l2"]),
        st.sampled_from([0.0, 1e-3, 1.0]),
        st.sampled_from([0.0, 0.5]),
        st.sampled_from([0.0, 0.3]),
    )
    def test_equals_its_parts_in_value_and_in_gradient(self, seed, pixel, kl, perceptual, fool):
        model = Adversaries(randomise(AutoencoderKL(TINY), seed), randomise(PatchDiscriminator(3, channels=8), seed))
        images = normal(3, 3, 8, 8, seed=seed).clamp(-1, 1)
        loss = autoencoder_loss(
            pixel=pixel, kl_weight=kl, perceptual_weight=perceptual, features=edges, adversarial_weight=fool
        )
        found = loss(model, (images,), generator(seed))
        total, caught = self.written_out(model, images, seed, pixel, kl, perceptual, fool)
        assert found.item() == pytest.approx((total + caught).item(), rel=1e-4)
        weights = dict(model.named_parameters())

        def gradients(value: Tensor, part: str) -> list[Tensor | None]:
            chosen = [weight for name, weight in weights.items() if name.startswith(part)]
            return list(torch.autograd.grad(value, chosen, retain_graph=True, allow_unused=True))

        torch.testing.assert_close(gradients(found, "vae."), gradients(total, "vae."), rtol=1e-3, atol=1e-5)
        critic = gradients(found, "discriminator.")
        if fool:
            torch.testing.assert_close(critic, gradients(caught, "discriminator."), rtol=1e-3, atol=1e-5)
        else:
            assert critic == [None] * len(critic)

    def test_trains_both_at_once_and_the_loss_falls(self):
        images = shapes(64, size=16).images
        torch.manual_seed(0)
        model = Adversaries(AutoencoderKL(TINY), PatchDiscriminator(3, channels=8))
        before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        quality = psnr(model.vae(images)[0].detach(), images)
        loss = autoencoder_loss(perceptual_weight=0.1, features=edges, adversarial_weight=0.1)
        record = fit(model, (images,), loss, steps=40, batch_size=16, lr=3e-3, ema=0.0, progress=False)
        moved = [name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])]
        assert moved == list(before)
        assert sum(record.losses[-10:]) < 0.8 * sum(record.losses[:10])
        assert psnr(model.vae(images)[0].detach(), images) > quality + 3

    def test_needs_no_discriminator_without_an_adversarial_term(self):
        torch.manual_seed(0)
        model, images = Adversaries(AutoencoderKL(TINY)), normal(16, 3, 8, 8).clamp(-1, 1) * 0.3
        record = fit(model, (images,), autoencoder_loss(pixel="l2"), steps=30, batch_size=16, lr=3e-3, progress=False)
        assert record.losses[-1] < 0.8 * record.losses[0]
        assert "adversarial 0.0" in record.config["loss"]

    def test_a_heavy_divergence_empties_the_latents(self):
        rest = {}
        for kl_weight in (1e-6, 1e3):
            torch.manual_seed(0)
            model, images = Adversaries(AutoencoderKL(TINY)), normal(16, 3, 8, 8).clamp(-1, 1)
            model.vae.quant.bias.data[:2] = 2.0
            loss = autoencoder_loss(kl_weight=kl_weight)
            fit(model, (images,), loss, steps=40, batch_size=8, lr=1e-2, ema=0.0, progress=False)
            rest[kl_weight] = kl_divergence(*model.vae.encode(images)).mean().item()
        assert rest[1e3] < 0.1 * rest[1e-6]

    def test_says_what_is_missing(self):
        with pytest.raises(ValueError, match='pixel is \'huber\'; it must be "l1" or "l2"'):
            autoencoder_loss(pixel="huber")
        with pytest.raises(ValueError, match="a perceptual term needs features"):
            autoencoder_loss(perceptual_weight=1.0)
        with pytest.raises(ValueError, match="an adversarial term needs a discriminator"):
            autoencoder_loss(adversarial_weight=1.0)(Adversaries(AutoencoderKL(TINY)), (X,), generator())


class Pulling(nn.Module):
    """A velocity that can be followed by hand: towards a corner that the class chooses; the null class stands still."""

    num_classes = 2

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        corner = torch.tensor([1.0, -1.0, 0.0])[labels][:, None, None, None]
        return x * (t / 1000)[:, None, None, None] - corner


class TestLatentDiffusion:
    @settings(max_examples=10, deadline=None)
    @given(SEEDS, st.integers(1, 4), st.sampled_from([0.0, 1.0, 2.5]), st.sampled_from([1.0, 3.0]))
    def test_equals_the_steps_written_out(self, seed, steps, scale, shift):
        vae = randomise(AutoencoderKL(change(TINY, scale=0.5, shift=0.25)), seed)
        process, labels, z = RectifiedFlow(shift=shift), torch.tensor([0, 1, 1]), normal(3, 2, 2, 3, seed=seed)
        found = sample_images(Pulling(), vae, labels, z, steps, process, scale)
        assert found.shape == (3, 3, 4, 6)
        times = process.grid(steps).tolist()
        for now, after in pairwise(times):
            corner = torch.tensor([1.0, -1.0, -1.0])[:, None, None, None]
            cond, uncond = z * now - corner, z * now
            z = z + (after - now) * (uncond + scale * (cond - uncond))
        with torch.no_grad():
            wanted = vae.decode(z / 0.5 + 0.25).clamp(-1, 1)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
        assert not found.requires_grad

    def test_runs_with_the_course_s_unet_and_hears_the_class(self):
        config = UNetConfig(in_channels=2, out_channels=2, model_channels=8, channel_mult=(1, 2), attention=(0, 1),
                            num_res_blocks=1, groups=4, num_classes=2)  # fmt: skip
        denoiser, vae = randomise(UNet(config)).eval(), randomise(AutoencoderKL(TINY))
        noise, process = normal(2, 2, 4, 4), RectifiedFlow()
        first = sample_images(denoiser, vae, torch.tensor([0, 0]), noise, 2, process, 2.0)
        other = sample_images(denoiser, vae, torch.tensor([0, 1]), noise, 2, process, 2.0)
        torch.testing.assert_close(first[0], other[0], rtol=1e-4, atol=1e-5)
        assert (first[1] - other[1]).abs().max() > 1e-3
        with pytest.raises(ValueError, match="3 labels for 2 images"):
            sample_images(denoiser, vae, torch.tensor([0, 1, 1]), noise, 2, process)


class Transformer(nn.Module):
    """Real layers of a plain transformer: attention and a perceptron four times as wide, nothing else that costs."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.ModuleList([SelfAttention(width, 2), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)])
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for attention, enter, leave in self.blocks:
            x = x + attention(x)
            x = x + leave(F.gelu(enter(x)))
        return x


class TestCost:
    @settings(max_examples=25, deadline=None)
    @given(
        st.sampled_from([8, 16, 32, 48]),
        st.sampled_from([1, 2, 4, 8]),
        st.sampled_from([1, 2]),
        st.sampled_from([8, 12]),
        st.integers(1, 3),
    )
    def test_equals_the_count_of_a_real_stack(self, size, factor, patch_size, width, depth):
        if size % (factor * patch_size):
            with pytest.raises(ValueError, match=f"{size} pixels do not divide by {factor} × {patch_size}"):
                transformer_cost(size, factor, patch_size, width, depth)
            return
        tokens, macs = transformer_cost(size, factor, patch_size, width, depth)
        assert tokens == len(range(0, size, factor * patch_size)) ** 2
        with torch.device("meta"):
            model, x = Transformer(width, depth), torch.zeros(1, tokens, width)
        assert macs == count_macs(model, x)

    def test_an_autoencoder_divides_the_tokens_by_its_factor_squared_and_attention_by_the_fourth_power(self):
        pixels, latents = transformer_cost(256, width=384, depth=1), transformer_cost(256, 8, width=384, depth=1)
        assert pixels[0] == 64 * latents[0]
        linear = [12 * tokens * 384**2 for tokens, _ in (pixels, latents)]
        assert pixels[1] - linear[0] == 64**2 * (latents[1] - linear[1])


X = normal(2, 3, 8, 8)
DISCRIMINATOR = PatchDiscriminator(3, channels=8)
REFUSALS = {
    "no levels": ("at least one level", lambda: change(TINY, channel_mult=())),
    "no blocks": ("one residual block in each", lambda: change(TINY, num_res_blocks=0)),
    "groups": ("8 channels do not divide into 3 groups", lambda: change(TINY, groups=3)),
    "scale": ("scale is 0; latents are multiplied by it", lambda: change(TINY, scale=0)),
    "no adversaries": ("must be given Adversaries", lambda: autoencoder_loss()(AutoencoderKL(TINY), (X,), generator())),
    "latents": ("latent_channels is 0; it must be at least 1", lambda: change(TINY, latent_channels=0)),
    "colours": (r"pictures of shape \(B, 3, H, W\), got \(2, 1, 8, 8\)", lambda: AutoencoderKL(TINY)(X[:, :1])),
    "no batch": (r"pictures of shape \(B, 3, H, W\), got \(3, 8, 8\)", lambda: AutoencoderKL(TINY).encode(X[0])),
    "odd": (r"AutoencoderKL: 8×7 pixels .*multiples of 2.*8×8", lambda: AutoencoderKL(TINY).encode(X[..., :7])),
    "odd batch": ("AutoencoderKL: 7×8 pixels", lambda: AutoencoderKL(TINY).to_latents(X[..., :7, :])),
    "both halves": (r"\(B, 2, h, w\), got \(2, 4, 4, 4\)", lambda: AutoencoderKL(TINY).decode(normal(2, 4, 4, 4))),
    "a picture": ("from_latents what to_latents returns", lambda: AutoencoderKL(TINY).from_latents(X)),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_call_gets_a_sentence(name):
    sentence, call = REFUSALS[name]
    with pytest.raises(ValueError, match=sentence):
        call()


class TestMeasures:
    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.floats(1e-3, 2), min_size=1, max_size=4))
    def test_psnr_is_the_mean_of_the_pictures_decibels(self, errors):
        real = torch.zeros(len(errors), 1, 4, 4, dtype=torch.float64)
        ours = torch.tensor(errors, dtype=torch.float64)[:, None, None, None].expand(-1, 1, 4, 4)
        wanted = sum(10 * torch.log10(torch.tensor(4 / error**2)).item() for error in errors) / len(errors)
        assert psnr(ours, real) == pytest.approx(wanted, rel=1e-4, abs=1e-4)

    def test_psnr_at_its_ends(self):
        assert psnr(torch.ones(1, 3, 4, 4), -torch.ones(1, 3, 4, 4)) == pytest.approx(0, abs=1e-5)
        assert 100 < psnr(X, X) < float("inf")
        assert psnr(X + 0.1, X) == pytest.approx(26.02, abs=0.01)
        with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\) and \(1, 3, 8, 8\); they must be pairs"):
            psnr(X, X[:1])

    @settings(max_examples=20, deadline=None)
    @given(SEEDS, st.floats(0.1, 3), st.floats(-1, 1))
    def test_sharpness_is_one_on_itself_and_grows_with_the_square_of_the_contrast(self, seed, contrast, brightness):
        images = normal(3, 3, 6, 6, seed=seed)
        assert sharpness(images, images) == pytest.approx(1, rel=1e-6)
        assert sharpness(contrast * images + brightness, images) == pytest.approx(contrast**2, rel=1e-3)
        blurred = F.avg_pool2d(images, 3, stride=1, padding=1)
        assert sharpness(blurred, images) < 0.5

    def test_sharpness_of_known_pictures(self):
        edge = torch.zeros(1, 1, 4, 4)
        edge[..., 2:] = 1.0
        soft = torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(1, 1, 4, 4)
        assert sharpness(soft, edge) == pytest.approx(0.25**2 + 0.5**2 + 0.25**2, rel=1e-5)
        assert sharpness(edge.mT, edge) == pytest.approx(1)
        noisy = edge + normal(1, 1, 4, 4)
        assert sharpness(noisy, edge) > 1


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge()


class TestMapsOfTheJudge:
    def test_are_the_ones_that_its_features_are_made_of(self, judge):
        images = shapes(3).images
        maps = judge.maps(images)
        assert [tuple(part.shape[1:]) for part in maps] == [(32, 16, 16)] * 2 + [(64, 8, 8)] * 2 + [(96, 4, 4)] * 2
        with torch.no_grad():
            torch.testing.assert_close(judge.body[6:](maps[-1]), judge.features(images), rtol=1e-4, atol=1e-5)

    def test_grey_and_small_pictures_are_made_to_fit(self, judge):
        grey = normal(2, 1, 32, 32).clamp(-1, 1)
        for ours, wanted in zip(judge.maps(grey), judge.maps(grey.repeat(1, 3, 1, 1)), strict=True):
            assert torch.equal(ours, wanted)
        small = normal(2, 3, 16, 16).clamp(-1, 1)
        doubled = small.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        assert torch.equal(judge.maps(small)[0], judge.maps(doubled)[0])
        with pytest.raises(ValueError, match="knows the shapes set only"):
            judge.maps(normal(2, 3, 28, 28))

    def test_pass_gradients_and_serve_as_features_of_the_loss(self, judge):
        images = shapes(4).images
        ours = (images + 0.1 * normal(*images.shape)).requires_grad_()
        near = perceptual_distance(judge.maps(ours), judge.maps(images))
        near.sum().backward()
        assert ours.grad.abs().max() > 0
        assert all(weight.grad is None for weight in judge.parameters())
        blurred = F.avg_pool2d(images, 5, stride=1, padding=2)
        assert (perceptual_distance(judge.maps(blurred), judge.maps(images)) > 0).all()
        model = Adversaries(AutoencoderKL(TINY))
        loss = autoencoder_loss(perceptual_weight=1.0, features=judge.maps)(model, (images,), generator())
        without = autoencoder_loss()(model, (images,), generator())
        assert loss > without
