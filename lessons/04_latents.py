# %% [markdown] title_card="04"
# # 4 · Why not diffuse pixels?
#
# *A network that draws 512 × 512 pixels answers for every one of them, at every step: for the thousandth pixel of a clear sky as for the corner of an eye. What if another network
# made the picture small first, and diffusion never saw a pixel?*

# %% name="setup" lesson="04"
from lesson_lib.setup import start_lesson

budget = start_lesson("04")

# %% name="imports"
import torch
import torch.nn.functional as F

from lesson_lib import plot, results, samplers, widgets
from lesson_lib.data import hub, shapes
from lesson_lib.evaluate import count_macs, load_judge, prompt_hits, psnr, sharpness
from lesson_lib.exercises import check, predict, prose, revisit, score
from lesson_lib.experiments.shipped import load_shipped, load_vae
from lesson_lib.guidance import Guided
from lesson_lib.official.parity import parity
from lesson_lib.train import denoising_loss, fit
from lesson_lib.unet import UNet, UNetConfig
from lesson_lib.vae import Adversaries, AutoencoderKL, PatchDiscriminator, VAEConfig

device, judge = budget.device, load_judge(budget.device)
vae, (shipped, flow) = load_vae("vae-shapes", device), load_shipped("latent-shapes", device)

# %% [markdown]
# ## What does a diffusion model see, if not pixels?
#
# Eight pictures of shapes; what a shipped autoencoder makes of them, four small maps each; and the pictures that its decoder gets back from these maps. The last row began as noise *of the
# size of the maps*: a U-Net turned it into new maps, and the same decoder turned those into pixels.

# %% name="picture-first"
scenes, eight = shapes(500, seed=404).to(device), torch.arange(1, 24, 3, device=device)
real = torch.stack([scenes.images[scenes.labels == k][0] for k in eight])
names, walk_steps = [scenes.class_names[k] for k in eight], budget.choose(smoke=4, laptop=16, gpu=50)


def enlarge(maps, times=4):
    return maps.repeat_interleave(times, dim=2).repeat_interleave(times, dim=3)


latents = vae.to_latents(real)
noise = torch.randn(latents.shape, generator=budget.generator(1), device=device)
walk = samplers.euler(Guided(shipped, eight, 2.0), noise, walk_steps, flow, trajectory=True)
rows = {"picture": real} | {f"latent, channel {c + 1}": enlarge(latents[:, c : c + 1]) / 3 for c in range(4)}
rows |= {"decoded again": vae.from_latents(latents), "drawn from noise": vae.from_latents(walk[-1])}
alt = "Pictures, their four latent channels, their reconstructions, and new pictures of the same classes"
plot.sample_rows(rows, column_titles=names, alt=alt)

again = vae.from_latents(vae.to_latents(scenes.images))
print(f"numbers in a picture: {real[0].numel():,}, in its latent: {latents[0].numel():,}")
print(f"{len(scenes)} new pictures decoded again: PSNR {psnr(again, scenes.images):.1f} dB")
blur = results.load("vae_blur")


def by_weight(metric, ylabel):
    found = {name: metrics[metric] for name, metrics in blur.variants.items()}
    alt = f"{ylabel} of three losses by the weight of the divergence, with bands over seeds"
    plot.curves(blur.x["values"], found, xlabel=blur.x["name"], ylabel=ylabel, alt=alt, logx=True)


by_weight("sharpness", "sharpness (1: as the pictures)")

# %% [markdown]
# The curves are the plot of this lesson: how much of the pictures' sharpness three ways to train an autoencoder keep. By the end you can say why they should differ, and write every line
# between a pixel and a latent. Before you look, three guesses:

# %% name="guesses"
predict("vae.q1")
predict("vae.q2")
predict("vae.q3")

# %% [markdown]
# ## What has to happen between a pixel and a latent?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $x$ | `x`, `images` | `(B, 3, H, W)` | pictures, from −1 to 1 |
# | $f$ | `factor` | a number | pixels of a side that become one latent place; 4 here, 8 in Stable Diffusion |
# | $\mu, \log\sigma^2$ | `mean, logvar` | `(B, 4, H/f, W/f)` | the encoder's answer: a Gaussian for each latent number |
# | $z$ | `z` | the same | a draw from it |
# | $s$ | `scale` | a number | diffusion works on $s \cdot z$ |
# | $\hat x$ | `made` | `(B, 3, H, W)` | what the decoder makes of $z$ |
#
# Four parts: encode, draw, denoise, decode. Here they are as dummies. The encoder averages squares of 4 × 4 pixels, nothing is random, the denoiser is silent, and the decoder repeats.


# %% name="skeleton"
@torch.no_grad()
def trace(encode, draw, denoise, decode):
    """Send the pictures through the four parts, print every shape, and say how much came back."""
    mean, logvar = encode(real)
    z = draw(mean, logvar, torch.randn_like(mean))
    velocity = denoise(z, torch.full((len(z),), 500.0, device=device), eight)
    made = decode(z).clamp(-1, 1)
    for name, part in {"x": real, "mean": mean, "logvar": logvar, "z": z, "velocity": velocity, "made": made}.items():
        print(f"{name:9} {tuple(part.shape)!s:16} {part[0].numel():>6,} numbers a picture")
    print(f"came back: PSNR {psnr(made, real):.1f} dB, sharpness {sharpness(made, real):.2f}")


def average(x):
    small = F.avg_pool2d(x, 4)
    mean = torch.cat([small, small.mean(dim=1, keepdim=True)], dim=1)  # red, green, blue, and grey
    return mean, torch.full_like(mean, -30.0)


trace(average, lambda mean, logvar, noise: mean, lambda z, t, labels: 0 * z, lambda z: enlarge(z[:, :3]))

# %% [markdown]
# So averaging is already an autoencoder, and a poor one: the latent has room for 256 numbers, and spends them on what an average keeps.
#
# ## What do pixels cost?
#
# Why bother, then? Lesson 3's presets on the meta device, where nothing is computed and everything is counted: ADM on pixels, Stable Diffusion's U-Net and decoder
# on latents with $f = 8$, all for one picture of 512 × 512.


# %% name="pixel-cost"
def cost(config, side):
    """Say how many weights a U-Net has and what one call costs; on the meta device nothing is computed."""
    with torch.device("meta"):
        net, x, t = UNet(config), torch.empty(1, config.in_channels, side, side), torch.empty(1)
        labels = torch.empty(1, dtype=torch.int64) if config.num_classes else None
        words = torch.empty(1, 77, config.context_size) if config.context_size else None
        macs, weights = count_macs(net, x, t, labels, words), sum(p.numel() for p in net.parameters())
    return f"{weights / 1e6:6.1f} M weights {macs / 1e9:10,.2f} GMAC at every step"


with torch.device("meta"):
    public = AutoencoderKL(VAEConfig.ldm_kl_f8())
    decoding = count_macs(public.decoder, torch.empty(1, 4, 64, 64))
print(f"ADM, pixels                   {cost(UNetConfig.adm(512), 512)}")
print(f"Stable Diffusion 1.5, latents {cost(UNetConfig.sd15(), 64)}")
print(f"its decoder                                    {decoding / 1e9:10,.2f} GMAC once, at the end")

# %% [markdown]
# DiT's Table 6 lists ADM at this size with 1983 G, and means multiply-accumulates. The latent model has more weights and does a fraction of the work: its places are 64 times fewer. The decoder costs a few
# steps, once. That is the bargain; the rest of the lesson is about its price.
#
# ## What must the two halves not have?
#
# Both are lesson 3's bricks without time. The encoder goes down, the decoder up, with attention only in the middle.

# %% source="vae.Encoder"
from lesson_lib.vae import Encoder

# %% source="vae.Decoder"
from lesson_lib.vae import Decoder

# %% [markdown] exercise_card="vae.reparametrise"
# ## How does a gradient get through a dice roll? (Exercise 4.1 · `reparametrise`)
#
# What they must not have is skips. A U-Net's skip would carry the picture around the bottleneck; the latent would stay empty, the reconstruction would be perfect, and there would be nothing to diffuse. The
# decoder has one block more in every level, as in lesson 3, though no skip arrives there: making detail takes more than discarding it.
#
# `leave` gives $2 \times 4$ numbers a place, since the encoder does not answer with a point. It answers with a Gaussian, "about here, give or take so much". The decoder gets a draw, and so learns that
# neighbours of a latent mean nearly the same picture. A draw has no gradient. But a draw from $\mathcal N(\mu, \sigma^2)$ is a shifted and stretched draw from $\mathcal N(0, 1)$:
#
# $$ z = \mu + \sigma\,\epsilon, \qquad \sigma = e^{\frac12 \log\sigma^2} $$
#
# All the chance is in $\epsilon$, which asks for no gradient; $\mu$ and $\sigma$ get theirs.
#
# **Your turn.** `mean`, `logvar` and `noise` have one shape. The network gives the logarithm of the *variance*, which may be any number. The check's cell draws 20,000 numbers from each of three
# Gaussians, and lets the gradient of $z^2$ flow back through your draws. By hand, $\mathbb E[z^2] = \mu^2 + \sigma^2$.

# %% exercise="vae.reparametrise"
from lesson_lib.vae import reparametrise

# %% name="check-reparametrise"
reparametrise = check("vae.reparametrise", reparametrise)
mean = torch.tensor([-3.0, 0.0, 3.0], requires_grad=True)
logvar = torch.tensor([-2.0, 0.0, 0.7], requires_grad=True)
fresh = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(0))
z = reparametrise(mean.expand(20_000, 3), logvar.expand(20_000, 3), fresh)
z.square().mean(dim=0).sum().backward()
print("gradients of the mean of z²:    by μ", mean.grad, "  by log σ²", logvar.grad)
print("by hand, 2μ and σ²:                 ", 2 * mean.detach(), "            ", logvar.detach().exp())
drawn = {f"μ {m:g}, log σ² {v:g}": column for m, v, column in zip(mean, logvar, z.detach().T, strict=True)}
plot.histogram(drawn, xlabel="z", bins=90, alt="Draws from three Gaussians: narrow at -3, standard at 0, wide at 3")

# %% [markdown] hints="vae.reparametrise"
# idea: The deviation is the root of the variance; a root is half of a logarithm.
# pseudo-code: deviation = exp(logvar / 2); mean + deviation × noise.
# most common error: exp(logvar) is the variance. At a log-variance of 0 both are 1 and nothing shows.

# %% [markdown] exercise_card="vae.kl_divergence"
# ## What keeps the Gaussians from running away? (Exercise 4.2 · `kl_divergence`)
#
# Left alone, the encoder cheats: it moves the means far apart and shrinks every $\sigma$ to nothing. Then the draw is no draw, and latent space is a scatter of points with nothing in between. A price on distance from the
# standard normal keeps it in reach. For Gaussians the divergence has a closed form:
#
# $$ D_{\mathrm{KL}} = \tfrac12 \sum_i \left( \mu_i^2 + \sigma_i^2 - 1 - \log \sigma_i^2 \right) $$
#
# **Your turn.** `mean` and `logvar` are `(B, …)`; return one number for each picture, `(B,)`, the *sum* over its latent numbers. The check's cell compares your formula with its definition,
# the mean of $\log q(z) - \log p(z)$ over draws, for the latent of the first picture.

# %% exercise="vae.kl_divergence"
from lesson_lib.vae import kl_divergence

# %% name="check-kl"
kl_divergence = check("vae.kl_divergence", kl_divergence)
with torch.no_grad():
    mean, logvar = vae.encode(real[:1])
    fresh = torch.randn(3, 1000, *mean.shape[1:], generator=budget.generator(2), device=device)
    z = reparametrise(mean, logvar, fresh)
    log_ratio = 0.5 * (z.square() - fresh.square() - logvar).flatten(2).sum(dim=2)  # log q(z) − log p(z)
draws = torch.arange(1, 1001)
running = {f"estimate {i + 1}": (total.cumsum(0).cpu() / draws) for i, total in enumerate(log_ratio)}
running["closed form"] = kl_divergence(mean, logvar).cpu().expand(1000)
alt = "Three running means over draws approach the closed form"
plot.lines(draws, running, xlabel="draws", ylabel="divergence (nats)", logx=True, alt=alt)
print(f"mean of σ: {torch.exp(0.5 * logvar).mean():.3f}; spread of the means: {mean.std():.2f}")
print("exp of 20 and of 89, in float32:", torch.tensor([20.0, 89.0]).exp().tolist())

# %% [markdown] hints="vae.kl_divergence"
# idea: Four terms for each number; then everything that belongs to one picture is added.
# pseudo-code: half × (mean² + exp(logvar) − 1 − logvar), flattened behind the batch, summed over the last axis.
# most common error: a mean where the sum belongs, over numbers or over the batch. The weight in front of the term then means something else by orders of magnitude.

# %% [markdown] exercise_card="vae.scale_factor"
# ## How large is a latent? (Exercise 4.3 · `scale_factor`)
#
# The last line shows why the encoder clamps `logvar` to $[-30, 20]$ before anything is exponentiated: float32 soon has no number left. The line above it shows what a small weight on the divergence leaves: $\sigma$ is small beside the spread
# of the means. These latents are far from a standard normal; the price keeps them in reach, and no more.
#
# That is a problem for what follows. Diffusion mixes data with noise of deviation 1. With data of deviation $d$ a rectified flow has as much signal as noise where $(1 - t)\,d = t$; for large $d$ that is late, and at
# most times the network sees a nearly clean latent. LDM's remedy (App. G) is one number, measured from data: $s = 1 / \mathrm{std}(z)$.
#
# **Your turn.** `latents` is `(N, C, H, W)`. Return a Python number: one for all channels, and leave the mean alone. The check's cell measures it on new pictures and draws the latents before and after; then
# the signal-to-noise ratio of the public models' latents over time, if nobody scaled them.

# %% exercise="vae.scale_factor"
from lesson_lib.vae import scale_factor

# %% name="check-scale"
scale_factor = check("vae.scale_factor", scale_factor)
with torch.no_grad():
    raw = vae.encode(scenes.images)[0]
scale = scale_factor(raw)
print(f"measured on {len(raw)} pictures of one object: {scale:.3f}")
print(f"shipped, measured on pictures of one and two objects: {vae.config.scale:.3f}\n")
published = {"SDXL": 0.13025, "SD 1.x, 2.x, DiT": 0.18215, "FLUX.1": 0.3611, "ours": scale, "SD3": 1.5305}
print(f"{'':18} {'scale':>8} {'deviation':>10} {'signal = noise at t':>20}")
for name, factor in published.items():
    print(f"{name:18} {factor:8.5f} {1 / factor:10.2f} {1 / (1 + factor):20.2f}")
alt = "Raw latents are wide and peaked; scaled ones have the noise's deviation, if not its shape"
sets = {"raw": raw, "scaled": scale * raw, "noise": torch.randn(raw.shape)}
inside = {name: part[part.abs() < 4] for name, part in sets.items()}
plot.histogram(inside, xlabel="latent number (those beyond ±4 left out)", bins=80, alt=alt)
times = torch.linspace(0.02, 0.98, 97)
ratio = {name: 2 * torch.log((1 - times) / times / factor) for name, factor in ({"scaled": 1.0} | published).items()}
alt = "Log signal-to-noise ratio over time: SDXL's raw latents highest, SD3's lowest, scaled ones in between"
plot.lines(times, ratio, xlabel="time t", ylabel="log (signal / noise)", alt=alt)

# %% [markdown] hints="vae.scale_factor"
# idea: Dividing by the deviation makes the deviation 1.
# pseudo-code: one over the standard deviation of all numbers together, as a float.
# most common error: the root of the mean square. It takes the mean for spread; SD3 and FLUX subtract a mean first, with a shift of their own.

# %% [markdown]
# The table's factors are in the public code: DiT `train.py`, SDXL `sd_xl_base.yaml`, sd3-ref `sd3_impls.py`, flux `util.py`. A latent is as large as its autoencoder happened to make it; unscaled, Stable Diffusion's would be
# mostly signal until very late. Scaling moves the curve to where the schedule expects it.
#
# ## Why does a pixel loss blur?
#
# A thought experiment. A latent has lost one bit: it fits two pictures equally well, whose edge lies here or there. The decoder must answer with one picture. Between the two places, which grey is best?

# %% name="two-answers"
edges = torch.stack([torch.where(torch.arange(16) < edge, -1.0, 1.0).expand(1, 16, 16) for edge in (5, 11)])
both = torch.cat([edges, edges.mean(dim=0, keepdim=True)])
alt = "Two pictures whose edge lies at different places, and their mean with a grey band"
plot.sample_grid(both, titles=["answer 1", "answer 2", "best by L2"], columns=3, alt=alt)
grey = torch.linspace(-1, 1, 201)
apart = (grey[:, None] - torch.tensor([-1.0, 1.0])).abs()
losses = {"L1": apart.mean(dim=1), "L2": apart.square().mean(dim=1)}
alt = "Expected loss of each grey: L1 is flat, L2 is lowest in the middle"
plot.lines(grey, losses, xlabel="grey of the band (−1 black, 1 white)", ylabel="expected loss", alt=alt)
for white in (0.5, 0.6):
    l1, l2 = (loss @ torch.tensor([1 - white, white]) for loss in (apart, apart.square()))
    best = grey[l1 < l1.min() + 1e-5]
    print(f"white at {white:.0%}: best by L1 {best.min():+.1f} to {best.max():+.1f}, by L2 {grey[l2.argmin()]:+.1f}")
revisit("vae.q1")

# %% [markdown] exercise_card="vae.hinge_loss"
# ## Who can tell a possible picture from a compromise? (Exercise 4.4 · `hinge_loss`)
#
# L2's best is the mean, a grey that neither picture holds. L1's best is the median: at even odds any grey will do, at 60 % it takes a side. Neither loss knows that the answer should look like a picture.
# Blur is the honest average of answers.
#
# Two terms know more. The **perceptual** term compares feature maps of a frozen network, here the shipped judge, in LDM the one of LPIPS (arXiv 1801.03924): a grey band excites other features than an edge. And a **patch
# discriminator** learns to tell real patches from reconstructed ones; a grey band gives itself away. It scores every patch, and its loss asks for scores above 1 for real and below −1 for reconstructed patches. Beyond
# that it is content:
#
# $$ L_D = \tfrac12\, \mathbb E[\max(0,\, 1 - D(x))] + \tfrac12\, \mathbb E[\max(0,\, 1 + D(\hat x))] $$
#
# **Your turn.** `real` and `fake` are scores of any shape; return a scalar. The check's cell draws your loss for one patch of each kind.

# %% exercise="vae.hinge_loss"
from lesson_lib.vae import hinge_loss

# %% name="check-hinge"
hinge_loss = check("vae.hinge_loss", hinge_loss)
scores, content = torch.linspace(-3, 3, 121), torch.tensor([9.0])  # a score of 9 costs a real patch nothing
as_real = torch.stack([hinge_loss(one[None], -content) for one in scores])
as_fake = torch.stack([hinge_loss(content, one[None]) for one in scores])
alt = "The loss of a real patch falls to zero at score 1; that of a reconstructed patch rises from score -1"
both = {"a real patch": as_real, "a reconstructed patch": as_fake}
plot.lines(scores, both, xlabel="score of the patch", ylabel="loss", alt=alt)

# %% [markdown] hints="vae.hinge_loss"
# idea: A rectifier is max(0, ·); there is one for each kind of patch.
# pseudo-code: half × (mean of relu(1 − real) + mean of relu(1 + fake)).
# most common error: taking a rectifier of the mean. Then one confident patch pays for ten bad ones.

# %% [markdown] exercise_card="vae.adaptive_weight"
# ## How loud may the critic be? (Exercise 4.5 · `adaptive_weight`)
#
# The autoencoder's own adversarial term is $-\mathbb E[D(\hat x)]$: raise the score of what you made. How heavily should it count? The discriminator's scale drifts while it learns, so no fixed number stays right. VQGAN
# (Eq. 7) compares the two losses where both arrive, at the weight of the decoder's last layer:
#
# $$ \lambda = \frac{\lVert \nabla_{\text{last}} L_{\text{rec}} \rVert}{\lVert \nabla_{\text{last}} L_{\text{adv}} \rVert + 10^{-4}}, \quad \text{clamped to } [0, 10^4] $$
#
# **Your turn.** `reconstruction` and `adversarial` are scalars with a graph; `last_layer` is the weight. `torch.autograd.grad` returns a tuple, and both graphs are needed again when the training step runs backward.
# Return a scalar without gradient. The check's cell makes the adversarial loss 1, 10 and 100 times as loud.

# %% exercise="vae.adaptive_weight"
from lesson_lib.vae import adaptive_weight

# %% name="check-adaptive"
adaptive_weight = check("vae.adaptive_weight", adaptive_weight)
last = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
made = last @ torch.ones(8, 16).cumsum(dim=1) / 16
first, second = (made - 1).square().mean(), -made.sigmoid().mean()
for loudness in (1, 10, 100):
    weight = adaptive_weight(first, loudness * second, last)
    pull = [
        torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (first, weight * loudness * second)
    ]
    print(f"{loudness:3} × adversarial: weight {weight:10.3f}, pulls {pull[0]:.2f} and {pull[1]:.2f}")

# %% [markdown] hints="vae.adaptive_weight"
# idea: Two gradients with respect to the same tensor, two norms, one quotient.
# pseudo-code: gradient of each loss by last_layer, keeping the graph; norm of the first over norm of the second plus 1e-4; clamp; detach.
# most common error: forgetting `retain_graph=True`, so that the training step finds its graph gone; or leaving out `detach`, so that the weight itself is trained.

# %% [markdown]
# However loud, the pulls stay equal. Now the whole loss, with your parts inside. Read it for three things: what is divided by what, what `features(images)` does not need, and what the discriminator is shown.

# %% source="vae.autoencoder_loss"
from lesson_lib.vae import autoencoder_loss

# %% name="train-vae"
torch.manual_seed(0)
small_set, unseen = (shapes(n, size=16, objects=(1, 2), seed=s).to(device) for n, s in ((4000, 41), (400, 42)))
small = Adversaries(AutoencoderKL(VAEConfig(channels=16, channel_mult=(1, 2, 4))), PatchDiscriminator()).to(device)
recipe = {"batch_size": 32, "lr": 2e-3, "warmup": 50, "ema": 0.99, "progress": False}
extra = {"perceptual_weight": 0.05, "features": judge.maps, "adversarial_weight": 0.5}
rows, small_losses = {"unseen, 16 × 16": unseen.images[:10]}, []
for name, terms, work in (
    ("L2", {}, budget.choose(smoke=6, laptop=70, gpu=300)),
    ("L2", {}, budget.choose(smoke=6, laptop=180, gpu=1500)),
    ("all terms", extra, budget.choose(smoke=4, laptop=110, gpu=900)),
):
    loss = autoencoder_loss(pixel="l2", kl_weight=1e-3, **terms)
    record = fit(small, (small_set.images,), loss, steps=work, **recipe)
    small_losses += record.losses
    with torch.no_grad():
        made, mean, logvar = small.vae(unseen.images)
    row = f"{len(small_losses)} steps, {name}"
    rows[row] = made.clamp(-1, 1)[:10]
    print(f"{row:21}{record.seconds:4.0f} s   PSNR {psnr(made.clamp(-1, 1), unseen.images):.1f} dB   ", end="")
    print(f"sharpness {sharpness(made, unseen.images):.2f}   divergence {kl_divergence(mean, logvar).mean():.0f} nats")
plot.sample_rows(
    rows, alt="Held-out pictures and what a small autoencoder makes of them at three times of its training"
)

# %% [markdown] exercise_card="vae.sample_images"
# ## What is latent diffusion, then? (Exercise 4.6 · `sample_images`)
#
# Places come first, colours and edges later. What each term buys is measured over seeds below; one short run shows one thing, that a latent can carry a picture without skips.
#
# The rest you own already. Lesson 1's sampler walks from noise to latents, lesson 2's guidance asks for a class, lesson 3's U-Net is the denoiser. New is the last line, which decodes.
#
# **Your turn.** `denoiser` is called with `(x, t, labels)` and predicts the velocity of *scaled* latents; `noise` is `(N, 4, h, w)`. Wrap it with `Guided`, walk with `euler`, and bring the result to pixels with the method of `vae`
# that knows about scales. The check's cell then decodes stops on the way, too.

# %% exercise="vae.sample_images"
from lesson_lib.vae import sample_images

# %% name="check-sample"
sample_images = check("vae.sample_images", sample_images)
drawn = sample_images(shipped, vae, eight, noise, walk_steps, flow, 2.0)
apart = (drawn - vae.from_latents(walk[-1])).abs().max()
print(f"yours against the last row of the first picture: largest difference {apart:.1e}")
stops = torch.linspace(0, walk_steps, min(walk_steps + 1, 8)).round().long()
alt = "Four walks from noise to a latent, each stop decoded: coloured debris becomes a shape"
plot.trajectory([vae.from_latents(walk[i]) for i in stops], flow.grid(walk_steps)[stops], alt=alt)

# %% [markdown] hints="vae.sample_images"
# idea: Two steps, each one call: sample latents, then turn them into pictures.
# pseudo-code: latents = euler(Guided(denoiser, labels, guidance_scale), noise, steps, process); return vae.from_latents(latents).
# most common error: `vae.decode(latents)`. The denoiser learned scaled latents; decode knows raw ones.

# %% [markdown] exercise_card="vae.transformer_cost"
# ## What does a transformer pay for a pixel? (Exercise 4.7 · `transformer_cost`)
#
# A U-Net pays for a place; a transformer also pays for every *pair* of places. The next lessons are about transformers, so count before you build. $N$ tokens of width $D$ cost, in each of the `depth` blocks,
# $12\,N D^2$ multiply-accumulates in linear layers and $2\,N^2 D$ in attention. A token is a square of $p \times p$ latent places, a place is a square of $f \times f$ pixels.
#
# **Your turn.** Return `(tokens, MACs)` as whole numbers for a square picture; raise `ValueError` where the side does not divide by `factor * patch_size`. The check's cell counts a width of 384 and 12 blocks, the size called S.

# %% exercise="vae.transformer_cost"
from lesson_lib.vae import transformer_cost

# %% name="check-cost"
transformer_cost = check("vae.transformer_cost", transformer_cost)
tokenised = {"pixels": (1, 1), "pixels, p = 16": (1, 16), "latents, f = 8": (8, 1), "latents, f = 8, p = 2": (8, 2)}
print(f"{'':34} {'tokens':>9} {'GMAC':>12}   of it attention")
for side in (256, 512, 1024):
    for name, (factor, patch) in tokenised.items():
        tokens, macs = transformer_cost(side, factor, patch)
        pairs = 12 * 2 * tokens**2 * 384
        print(f"{side:4} × {side:<4}  {name:22} {tokens:>9,} {macs / 1e9:>12,.1f} {pairs / macs:>6.0%}")
revisit("vae.q2", (transformer_cost(256)[0] / transformer_cost(256, 8)[0]) ** 2)

# %% [markdown] hints="vae.transformer_cost"
# idea: Both f and p shorten a side; tokens fill an area.
# pseudo-code: step = factor × patch_size; refuse a rest; tokens = (size // step)²; MACs = depth × (12 × tokens × width² + 2 × tokens² × width).
# most common error: dividing the area by f once. Halving a side quarters the area and divides its pairs by sixteen.

# %% [markdown] exercise_card="vae.latents_bug"
# ## Good latents, wrong pictures? (Exercise 4.8 · debug `from_latents`)
#
# The pixel row is why nobody runs such a transformer. Large patches of pixels bring the tokens down too; what they cannot do is leave out what the eye does not miss. DiT-S/2 at 256 × 256 is listed at 6.06 G (Table 4); your last kind
# of row, without DiT's conditioning and its first and last layers, comes close.
#
# Here is the whole autoencoder. A diffusion model's loss was low, its latents had the right spread, and its pictures were wrong. Every reconstruction through `encode` and `decode` was right. One method is to blame.
#
# **Your turn.** `to_latents` gives $(z - \text{shift}) \cdot s$. Write down its inverse before you read on.

# %% exercise="vae.latents_bug"
from lesson_lib.vae import AutoencoderKL

# %% name="check-from-latents"
AutoencoderKL = check("vae.latents_bug", AutoencoderKL)
mine = AutoencoderKL(vae.config).to(device)
mine.load_state_dict(vae.state_dict())
latents = mine.to_latents(real)
with torch.no_grad():
    rows = {"picture": real, "there and back": mine.from_latents(latents), "as given": mine.decode(latents * scale)}
plot.sample_rows(rows, alt="Pictures, their reconstructions by your class, and those of the method as it was given")

# %% [markdown] hints="vae.latents_bug"
# idea: Last done, first undone.
# pseudo-code: divide by the scale, then add the shift; decode; clamp.
# most common error: with the shift 0 and a scale near 1 the bug hardly shows. Test a round trip, not a picture.

# %% [markdown]
# ## Is it the public autoencoder?
#
# The same weights in diffusers' `AutoencoderKL` and in ours, every tensor random; then the counts of LDM's kl-f8, the autoencoder of Stable Diffusion 1 and 2 and of DiT (Table 4 there says 84M); then the trace from the top, with no dummy left.

# %% name="assemble"
print(parity("vae"), "\n")
with torch.device("meta"):
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in public.named_children()}
print(f"kl-f8: {sum(counts.values()):,} weights; {', '.join(f'{name} {n:,}' for name, n in counts.items())}\n")
trace(vae.encode, reparametrise, shipped, vae.decode)
print(f"U-Net on pixels  {cost(UNetConfig.shapes32(), 32)}\nU-Net on latents {cost(UNetConfig.latent8(), 8)}")

# %% [markdown]
# ## Can you train it yourself?
#
# Pictures become latents once, before training; after that the loop of lesson 1 does not know that it works on latents. The first three lines hold all that you may want to turn.

# %% name="train-latent"
torch.manual_seed(0)
network = UNet(UNetConfig.latent8()).to(device)
steps, batch_size, lr, ema = budget.choose(smoke=15, laptop=800, gpu=6000), 64, 2e-3, 0.995

many = shapes(budget.choose(smoke=200, laptop=4000, gpu=20_000), seed=12).to(device)
latent_set = vae.to_latents(many.images, budget.generator(3))
print(f"{len(latent_set):,} latents of shape {tuple(latent_set.shape[1:])}, deviation {latent_set.std():.2f}")
loss = denoising_loss(flow, label_dropout=0.1)
record = fit(network, (latent_set, many.labels), loss, steps=steps, batch_size=batch_size, lr=lr, ema=ema, warmup=50)
print(f"{record.steps} steps, {record.seconds:.0f} s, {record.images_per_second:.0f} latents/s")
print(f"peak memory {record.peak_memory_mb:.0f} MB on {record.device}; budget: {budget.name}")
plot.losses(record, alt="Training loss of the latent flow")

count, rows = budget.choose(smoke=24, laptop=240, gpu=960), {}
orders = torch.arange(count, device=device) % 24
begin = torch.randn(count, 4, 8, 8, generator=budget.generator(4), device=device)
for name, net in (("yours", network), ("shipped", shipped)):
    for s in (1.0, 2.0):
        drawn = sample_images(net, vae, orders, begin, walk_steps, flow, s)
        hits = int(prompt_hits(drawn, orders, judge)["all"].sum())
        share, low, high = results.proportion_interval(hits, count)
        print(f"{name:8} guidance {s:g}: {share:6.1%} of {count} as asked for   95 % interval [{low:.1%}, {high:.1%}]")
    rows[name] = sample_images(net, vae, eight, noise, walk_steps, flow, 2.0)
alt = "Samples of your latent model and of the shipped one, from the same noises"
plot.sample_rows(rows, column_titles=names, alt=alt)

# %% [markdown]
# ## What lies between two latents?
#
# Take two pictures and walk from one to the other, in three spaces. Pixels and latents of pictures are mixed *linearly*: the decoder was trained on such latents at their own size. Noise is mixed *spherically*, along an arc:
# the straight middle of two independent noises has only $\sqrt{1/2}$ of their deviation, and the denoiser has never seen noise so weak. Turn the dial before you read on.

# %% name="dial"
left, right, classes = real[[0, 2, 5]], real[[1, 4, 7]], eight[[0, 2, 5]]
start, end = torch.randn(2, 3, 4, 8, 8, generator=budget.generator(6), device=device)


def spherical(a, b, share):
    angle = torch.acos(F.cosine_similarity(a.flatten(1), b.flatten(1)))[:, None, None, None]
    return (torch.sin((1 - share) * angle) * a + torch.sin(share * angle) * b) / torch.sin(angle)


middles = [mix(start, end, 0.5).std() for mix in (torch.lerp, spherical)]
print("half-way noise has a deviation of {:.2f} if mixed straight, {:.2f} along the arc".format(*middles))
dial, mixtures = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0], {}
for share in dial:
    latents = torch.lerp(vae.to_latents(left), vae.to_latents(right), share)
    drawn = sample_images(shipped, vae, classes, spherical(start, end, share), walk_steps, flow, 2.0)
    mixtures[share] = {"pixels": torch.lerp(left, right, share), "latents": vae.from_latents(latents), "noise": drawn}


def draw(share):
    plot.sample_rows(mixtures[share], alt=f"Three mixtures at {share:g}: of pixels, of latents, of noises")


widgets.slider(draw, dial, label="share of the second", alt="Mixtures of pixels, of latents and of noises, six shares")

# %% [markdown]
# Mixed pixels are two transparencies on top of each other. Mixed latents are hardly better: both shapes are still there, and half-way between the codes of two colours may lie a third that neither picture holds. The bottom row has one
# class a column and other ends, but it alone stays among possible pictures all the way, and there the *denoiser* decides what is possible. "Latent space" in the sense of a smooth space of meanings is the denoiser's noise, not the autoencoder's $z$.
#
# ## Which loss keeps the edges?
#
# Recorded runs at 16 × 16, several seeds. First closeness to the original, then closeness to real pictures in general.

# %% name="ablation-blur"
by_weight("psnr", "PSNR (dB)")
by_weight("fd_judge", "FD-judge of reconstructions")
print(f"{blur.configuration['steps']} steps a run, {len(blur.seeds)} seeds\n")
for weight in blur.x["values"]:
    for metric, better in {"psnr": "higher", "sharpness": "higher", "fd_judge": "lower"}.items():
        print(results.verdict(blur, metric, better=better, at=weight))

# %% [markdown]
# Read across the metrics before you choose a winner. PSNR is a squared error with a logarithm, so it rewards exactly what L2 optimises; a loss that guesses an edge can lose there and win in sharpness. FD-judge has a bias of its own: the perceptual term trains on maps of the same judge
# that measures, so part of its lead is teaching to the test; sharpness and PSNR know nothing of the judge. Then look along the horizontal axis for the price of the
# divergence. LDM's weight is $10^{-6}$ (App. G) and means the same here: both terms are sums over a picture.
#
# ## How many channels, and was it worth it?
#
# More channels hold more of the picture. Do they also make a better *diffusion* model? Published reconstructions, each table with its own data (never mix their rows):
#
# | source | autoencoder | rFID or FID | PSNR |
# |---|---|---|---|
# | LDM, Table 8 | f = 8, 4 channels, KL | 0.90 | 24.19 |
# | LDM, Table 8 | f = 16, 8 channels, KL | 2.63 | 21.94 |
# | LDM, Table 8 | f = 16, 16 channels, KL | 0.87 | 24.08 |
# | SD3, Table 3 | f = 8: 4, 8, 16 channels | 2.41, 1.56, 1.06 | 25.12, 26.40, 28.62 |
#
# Ours: an autoencoder and a diffusion model for each number of channels; then pixels against latents, as many multiply-accumulates for either.

# %% name="ablation-space"
channels, compute = results.load("latent_channels"), results.load("pixel_latent")


def show(record, what, **better):
    for metric, direction in better.items():
        alt = f"{metric} {what}, one dot a seed, with intervals"
        plot.intervals(record, metric, better=direction, xlabel=f"{metric} {what}", alt=alt)
    for metric in record.metrics:
        print(results.verdict(record, metric, better="lower" if metric.startswith("fd") else "higher"))


show(channels, "by number of latent channels", psnr="higher", fd_judge="lower")
show(compute, "of pixels or latents, equal compute", fd_judge="lower")
print(f"steps: {compute.configuration['steps']}; not counted: {compute.configuration['not counted']}\n")
revisit("vae.q3")

# %% [markdown]
# To reconstruct well and to be easy to diffuse are two things, so each has its own verdict. SD3 found that sixteen channels reconstruct better and pay off with a larger denoiser (Fig. 10). Where our verdicts find no difference, look at the
# first cell: the shipped autoencoder has four channels, more training, and a far higher PSNR. In the recorded runs it is training that runs out, not room.
#
# What this scale cannot show: our pictures are flat colours, which four channels hold with ease; textures, where a discriminator earns its keep and invents detail, do not occur. Our denoisers are tiny and briefly trained. And at 32 × 32 with
# $f = 4$ the saving in places is 16-fold; at 512 × 512 with $f = 8$ it is 64-fold, and attention, which we barely use, gains its square.
#
# Do real pictures survive? At the gpu budget the next cell sends Fashion-MNIST's test set through a second shipped autoencoder. Its held-out reconstructions also lie beside the weights, in `data/checkpoints` (`vae-fashion.png`, described in the README there).

# %% name="fashion"
wanted, clothes = budget.choose(smoke=0, laptop=0, gpu=500), None
try:
    clothes = hub("fashion_mnist", "test", size=32, limit=wanted).images.to(device) if wanted else None
except OSError as problem:
    print(f"Fashion-MNIST is not at hand: {problem}")
if clothes is None:
    print("Skipped: this needs the gpu budget and Fashion-MNIST. The recorded figure is in data/checkpoints.")
else:
    tailor = load_vae("vae-fashion", device)
    worn = tailor.from_latents(tailor.to_latents(clothes))
    print(f"{len(clothes)} test pictures: PSNR {psnr(worn, clothes):.1f} dB, sharpness {sharpness(worn, clothes):.2f}")
    plot.sample_rows({"test picture": clothes[:10], "decoded": worn[:10]}, alt="Clothes and their reconstructions")

# %% [markdown]
# ## What did they break?
#
# A trained an autoencoder. B and C have your latent model and sample it. Run the next cell without reading it: what did each do? Which of the three could be seen in a loss?

# %% name="break-it-run" cellView="form"
torch.manual_seed(0)
patient, heavy = Adversaries(AutoencoderKL(small.vae.config)).to(device), autoencoder_loss(pixel="l2", kl_weight=10.0)
patient_record = fit(patient, (small_set.images,), heavy, steps=budget.choose(smoke=10, laptop=120), **recipe)
sound, given = Guided(network, eight, 2.0), unseen.images[:8]


def careful(x, t):
    velocity, s = sound(x, t), t[:, None, None, None] / 1000
    return (x - (x - s * velocity).clamp(-1, 1)) / s


drawn = samplers.euler(sound, noise, walk_steps, flow)
with torch.no_grad():
    rows = {"A is given": enlarge(given, 2), "A gets back": enlarge(patient.vae(given)[0], 2)}
    rows["B draws"] = small.vae.decode(drawn / vae.config.scale)
    rows["C draws"] = vae.from_latents(samplers.euler(careful, noise, walk_steps, flow))
    rows["sound"] = vae.from_latents(drawn)
    divergence = kl_divergence(*patient.vae.encode(unseen.images)).mean()
curves = {"A": patient_record, "sound": small_losses[: patient_record.steps]}
plot.losses(curves, logy=True, alt="Losses of A's autoencoder and of a sound one")
plot.sample_rows(
    rows, alt="A: one blur for all pictures. B: debris. C: torn shapes, wrong colours. Below: sound samples"
)
print(f"A's divergence: {divergence:.2f} nats a picture")
print(f"share of latent numbers outside [-1, 1]: {(latent_set.abs() > 1).float().mean():.0%}")

# %% [markdown]
# <details><summary>A</summary>
#
# A's weight on the divergence is far too large. The cheapest answer is $\mu = 0$, $\sigma = 1$ for every picture: the divergence is near zero and the latent says nothing, so the decoder paints the mean of all pictures. This is
# **posterior collapse**. Its loss flattens where painting the mean leaves it.
# </details>
# <details><summary>B</summary>
#
# B decoded with another autoencoder: the small one from above. It has the same four channels and the same $f$, so shapes fit and nothing raises. Each autoencoder invents its own language; a latent model is worth nothing without *its*
# decoder. (A decoder retrained for the *same* latents is another matter: DiT gains from 2.46 to 2.27 FID by such a swap, Table 5.)
# </details>
# <details><summary>C</summary>
#
# C kept a habit from pixels: after each step the predicted clean latent was clamped to $[-1, 1]$. Pixels live there; the last line printed says how many latent numbers do not, and with them go colours and edges. DiT's `sample.py` passes `clip_denoised=False`.
# </details>
#
# Only A shows in a loss; B and C leave no trace in any. Now in your own words, in the cell below:

# %% name="in-words"
prose("vae.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | what to look for |
# |---|---|
# | CompVis/latent-diffusion, `models/first_stage_models/kl-f8/config.yaml` | channels 128, multipliers 1, 2, 4, 4, two blocks, weight $10^{-6}$; the discriminator starts at step 50 001 |
# | the same, `ldm/modules/losses/contperceptual.py` | your adaptive weight, times 0.5; all errors are sums over pixels |
# | the same, `ldm/models/autoencoder.py` | your autoencoder, with two 1 × 1 convolutions around the latent |
# | the same, `ldm/models/diffusion/ddpm.py` | `scale_by_std`: one over the deviation of the *first batch* |
# | facebookresearch/DiT, `train.py` | a draw from the Gaussian, times 0.18215 |
# | Stability-AI/sd3-ref, `sd3_impls.py` | 16 channels, $(z - 0.0609) \cdot 1.5305$: a shift as well |
# | black-forest-labs/flux, `sampling.py` | 16 channels; squares of 2 × 2 packed into tokens of 64 numbers, ordered channel, row, column |
#
# **A trap.** `contperceptual.py` divides the reconstruction error by $e^{\text{logvar}}$ of a learned parameter. It looks trained and is not: the optimiser in `autoencoder.py` lists encoder, decoder and the two 1 × 1 convolutions only, so it stays 0. Code that
# copies the loss with another optimiser trains another model.
#
# What differs here: the judge's features in place of LPIPS's, a smaller discriminator, one optimiser for both networks, and $f = 4$.
#
# ## What have you got now?
#
# * Pixels are expensive because every step pays for every place. An autoencoder pays once, and at $f = 8$ leaves 64 times fewer places.
# * Pixel losses average over what the latent leaves open, and averages are blurred; features and a critic ask for a possible picture.
# * A latent has no size of its own. Measure the scale, apply it once, undo it once, and never clip.
#
# From now on you can import `lesson_lib.vae`. Three references:
#
# * Rombach and others, *High-resolution image synthesis with latent diffusion models* (arXiv 2112.10752): §3.1, App. D.1 and G.
# * Kingma and Welling, *Auto-encoding variational Bayes* (arXiv 1312.6114): the draw and the divergence of 4.1 and 4.2.
# * Esser and others, *Taming transformers* (VQGAN, arXiv 2012.09841): patch critic, features, and Eq. 7.

# %% name="score"
score("04")
