# %% [markdown] title_card="06"
# # 6 · What does a ViT need to become a generator?
#
# *A ViT reads a picture and answers with one word. A denoiser answers with a picture, at every level of noise, for the class that you ask for. Between the two lie seven small changes. Which are they, and is the result better than a U-Net?*

# %% name="setup" lesson="06"
from lesson_lib.setup import start_lesson

budget = start_lesson("06")

# %% name="imports"
import copy
import itertools
from dataclasses import replace

import torch
from einops import rearrange
from torch import nn

from lesson_lib import plot, results, samplers, widgets
from lesson_lib.data import COLOURS, SHAPES, digits, shapes
from lesson_lib.dit import AdaLNZeroBlock, DiTConfig, FinalLayer
from lesson_lib.embed import LabelEmbedder, TimeEmbedder
from lesson_lib.evaluate import class_accuracy, count_macs, load_judge, prompt_accuracy
from lesson_lib.exercises import check, predict, prose, revisit, score
from lesson_lib.experiments.dit_grid import correlation
from lesson_lib.experiments.shipped import load_shipped, load_vae
from lesson_lib.guidance import Guided, guide
from lesson_lib.noise import Diffusion
from lesson_lib.official.parity import parity
from lesson_lib.train import denoising_loss, fit
from lesson_lib.vit import EncoderBlock, PatchEmbed

device, judge = budget.device, load_judge(budget.device)
walk_steps = budget.choose(smoke=4, laptop=16, gpu=32)

# %% [markdown]
# ## Can patches alone draw?
#
# Two shipped Diffusion Transformers: one draws 16 × 16 pixels, the other 8 × 8 × 4 latents of real clothes (Fashion-MNIST), which lesson 4's autoencoder decodes. Neither has a convolution beyond the one that cuts patches, a second resolution, or a skip across them.

# %% name="picture-first"
(shipped, flow), (dresser, _) = (load_shipped(name, device) for name in ("dit-shapes", "dit-fashion"))
tailor = load_vae("vae-fashion", device)
eight = torch.tensor([0, 5, 10, 15, 16, 21, 2, 7], device=device)  # colour * 4 + shape
names = [f"{COLOURS[k // 4]} {SHAPES[k % 4]}" for k in eight.tolist()]
clothes = ["T-shirt", "trouser", "jumper", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
noise = torch.randn(16, 3, 16, 16, generator=budget.generator(1), device=device)
bolt = torch.randn(10, 4, 8, 8, generator=budget.generator(2), device=device)


def sample(model, labels, start, scale=2.0, combine=guide):
    return samplers.euler(Guided(model, labels, scale, combine), start, walk_steps, flow)


def tailored(scale, combine=guide):  # ten pieces of clothing from the same noise
    return tailor.from_latents(sample(dresser, torch.arange(10, device=device), bolt, scale, combine))


rows = {f"noise {i + 1}": sample(shipped, eight, part) for i, part in enumerate(noise.split(8))}
plot.sample_rows(rows, column_titles=names, alt="Eight classes of shapes, drawn twice by the shipped DiT")
plot.sample_grid(tailored(2.0), titles=clothes, columns=5, alt="Ten pieces of clothing, drawn by the other DiT")

# %% [markdown]
# Next, the plot of this lesson. Each dot is a transformer: on the left the paper's twelve (DiT, Table 4, 400,000 steps), on the right nine of ours, means over seeds. More arithmetic, better pictures, mostly. By the end you can say how both axes are computed, what the dots differ in, and why some lie far off. First, three
# guesses.

# %% name="the-plot"
paper = {  # Gflops, FID-50K without guidance
    "S/8": (0.36, 153.60), "S/4": (1.41, 100.41), "S/2": (6.06, 68.40),
    "B/8": (1.42, 122.74), "B/4": (5.56, 68.38), "B/2": (23.01, 43.47),
    "L/8": (5.01, 118.87), "L/4": (19.70, 45.64), "L/2": (80.71, 23.33),
    "XL/8": (7.39, 106.41), "XL/4": (29.05, 43.01), "XL/2": (118.64, 19.47),
}  # fmt: skip
grid = results.load("dit_grid")


def clouds(alt, named):
    with plot.figure(alt=alt, height=3.5) as fig:
        left, right = fig.subplots(1, 2)
        for patch, colour in zip("842", plot.colours(["8", "4", "2"]) if named else ["#666666"] * 3, strict=True):
            theirs = [found for name, found in paper.items() if name.endswith(patch)]
            ours = [name for name in grid.variants if name.startswith(f"p{patch} ")]
            macs_of = [grid.values(name, "macs_millions")[0] for name in ours]
            mean, low, high = zip(*(results.interval(grid.values(name, "fd_judge")) for name in ours), strict=True)
            marker = {"8": "s", "4": "^", "2": "o"}[patch] if named else "o"
            style = {"color": colour, "marker": marker, "linestyle": "-" if named else ""}
            left.plot(*zip(*theirs, strict=True), **style)
            right.plot(macs_of, mean, **style, label=f"p = {patch}")
            right.vlines(macs_of, low, high, color=colour, alpha=0.5, linewidth=3)
        left.set(xscale="log", xlabel="Gflops (10⁹ multiply-accumulates)", ylabel="FID-50K", title="DiT, Table 4")
        right.set(xscale="log", xlabel="10⁶ multiply-accumulates", ylabel="FD-judge", title="ours, 95 % t-intervals")
        if named:
            right.legend()


clouds("Two clouds of dots fall from the upper left to the lower right", named=False)

# %% name="guesses"
predict("dit.q1")
predict("dit.q2")
predict("dit.q3")

# %% [markdown]
# ## What is missing from a ViT?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $x$ | `x` | `(B, C, H, W)` | noisy picture or latents |
# | $p$, $N$ | `patch_size` | numbers | side of a patch; tokens, $N = (H/p)(W/p)$ |
# | $h$ | `tokens` | `(B, N, D)` | the sentence |
# | $t$, $y$ | `t`, `labels` | `(B,)` | time from 0 to 1000, class |
# | $c$ | `c` | `(B, D)` | time plus class as one vector |
# | $v$ | `v` | as $x$ | what the network says about the variance of a step |
#
# Lesson 5's parts, without anything that a generator needs: patches, two blocks, the mean of the tokens, a word. Five questions test what comes out (of a picture, its first patch). Is it a picture? Does it move when the far corner changes, when two *other* columns of patches change places, when the time does, when
# the class does?


# %% name="skeleton"
torch.manual_seed(0)
embed = PatchEmbed(patch_size=4, in_channels=3, hidden_size=64)
encoders = nn.ModuleList(EncoderBlock(64, num_heads=4) for _ in range(2))
word = nn.Linear(64, 24)
parts = {
    "place": lambda tokens: tokens,  # says nothing about where a patch was
    "condition": lambda t, labels: torch.zeros(len(t), 64),  # hears nothing
    "block": lambda layer, tokens, c: encoders[layer](tokens),
    "answer": lambda tokens, c: word(tokens.mean(dim=1)),
}


def answer_of(x, t, labels, say=lambda name, h: h):
    tokens = say("placed", parts["place"](say("patches", embed(x))))
    c = say("condition", parts["condition"](t, labels))
    for layer in range(2):
        tokens = say("block", parts["block"](layer, tokens, c))
    return say("answer", parts["answer"](tokens, c))


def first_patch(answer):
    return answer[..., :4, :4] if answer.ndim == 4 else answer


@torch.no_grad()
def ask(change="", **say):
    """Put the five questions to the parts as they are now."""
    g = torch.Generator().manual_seed(0)
    x, t, label = torch.randn(1, 3, 16, 16, generator=g), torch.tensor([300.0]), torch.tensor([3])
    corner, moved = x.clone(), x.clone()
    corner[..., 15, 15] += 1
    moved[..., 4:12] = x[..., 4:12].roll(4, dims=-1)
    before = answer_of(x, t, label, **say)
    told = [f"picture {'yes' if before.ndim == 4 else 'no '}"]
    knobs = {"corner": (corner, t, label), "places": (moved, t, label), "time": (x, t + 300, label)}
    for knob, given in (knobs | {"class": (x, t, label + 1)}).items():
        same = torch.allclose(first_patch(before), first_patch(answer_of(*given)), atol=1e-5)
        told.append(f"{knob} {'no ' if same else 'yes'}")
    print(f"{change:29}{'   '.join(told)}")


def show(name, h):
    print(f"{name:10} {tuple(h.shape)}")
    return h


ask("a ViT's parts", say=show)

# %% [markdown]
# Only the corner is heard: attention reaches it. The rest of the row will turn, one named change at a time.
#
# ## Where was this patch? (change 1)
#
# Attention reads a set, so each token gets its place added. ViT learns that table. DiT's is **fixed**, sines and cosines of column and row. Its code holds it as a `Parameter`, hence the rumour that it is learned; it has `requires_grad=False` and never moves. (Another rumour gives DiT rotary positions; those come in lesson 8.)
# One coordinate first:

# %% source="position.sin_cos_1d"
from lesson_lib.position import sin_cos_1d

# %% [markdown] exercise_card="position.sin_cos_2d"
# ### Exercise 6.1 · `sin_cos_2d`
#
# **Your turn.** For a grid of `height` × `width` patches return `(height * width, size)`, tokens in reading order. The first half of each row is `sin_cos_1d` of the *column*, the second half of the *row*. Raise `ValueError` where `size` does not divide by 4.
#
# The check's cell draws your table for 8 × 8 patches, then how much three places (dots) resemble all others: the product of two rows, 1 for a place with itself.

# %% exercise="position.sin_cos_2d"
from lesson_lib.position import sin_cos_2d

# %% name="check-sin-cos"
sin_cos_2d = check("position.sin_cos_2d", sin_cos_2d)
table = sin_cos_2d(8, 8, 64)
alike = (table @ table.T / 32).view(64, 8, 8)
with plot.figure(alt="The table of 64 places; three maps of resemblance that fall off from a dot", height=2.9) as fig:
    left, *maps = fig.subplots(1, 4, width_ratios=(1.7, 1, 1, 1))
    left.imshow(table, cmap="PuOr_r", aspect="auto")
    left.set(xlabel="feature: column | row", ylabel="place, in reading order")
    for place, axes in zip((0, 27, 45), maps, strict=True):
        drawn = axes.imshow(alike[place], vmin=0.6, vmax=1)
        axes.plot(place % 8, place // 8, "o", color="white")
    fig.colorbar(drawn, ax=maps, shrink=0.7)
    for axes in (left, *maps):
        axes.grid(False)
for step, place in (("one column on", 1), ("one row down", 8)):
    moved = [not torch.equal(one, other) for one, other in zip(table[0].split(32), table[place].split(32), strict=True)]
    print(f"{step}: the first half of the features changes: {moved[0]}, the second: {moved[1]}")
parts["place"] = lambda tokens: tokens + sin_cos_2d(4, 4, 64)
ask("1 a fixed table of places")

# %% [markdown] hints="position.sin_cos_2d"
# idea: two coordinates for each token, each written by `sin_cos_1d` into half of the width.
# pseudo-code: rows, columns = meshgrid(arange(height), arange(width), indexing="ij"); flatten both; cat([code(columns), code(rows)], dim=1).
# most common error: the row first. DiT's source *calls* the first half h, and hands it the column. A network can be trained with either; weights of one are wrong in the other.

# %% [markdown] exercise_card="dit.unpatchify"
# ## How do tokens become a picture? (change 2, Exercise 6.2 · `unpatchify`)
#
# Places: yes. Neighbours resemble each other most, and the slow half of the features hardly moves on so small a grid.
#
# Now the answer. Drop the mean, give every token $p^2 C$ numbers, the pixels of its patch, and lay the patches out.
#
# **Your turn.** `tokens` is `(B, N, p² C)` in reading order, `height` the number of patches from top to bottom. Inside a patch the order is (row, column, channel), the channel running fastest. Return `(B, C, H, W)`; raise `ValueError` where the numbers do not fit.
#
# The check's cell cuts six scenes up and puts them back: rightly, with the tokens read downwards, and with each patch read downwards.

# %% exercise="dit.unpatchify"
from lesson_lib.dit import unpatchify

# %% name="check-unpatchify"
unpatchify = check("dit.unpatchify", unpatchify)
scenes = shapes(6, objects=2, seed=16).images
cut = rearrange(scenes, "b c (height p1) (width p2) -> b (height width) (p1 p2 c)", p1=8, p2=8)
downwards = cut.unflatten(1, (4, 4)).transpose(1, 2).flatten(1, 2)
turned = cut.unflatten(2, (8, 8, 3)).transpose(2, 3).flatten(2)
rows = {name: unpatchify(words, 8, 4) for name, words in {"right": cut, "tokens read downwards": downwards}.items()}
rows["patches read downwards"] = unpatchify(turned, 8, 4)
plot.sample_rows(rows, alt="Six scenes put together rightly, with patches in wrong places, with turned patches")
pixels = nn.Linear(64, 4 * 4 * 3)
parts["answer"] = lambda tokens, c: unpatchify(pixels(tokens), 4, 4)
ask("2 patches for an answer")

# %% [markdown] hints="dit.unpatchify"
# idea: split both axes into what they were made of, then sort.
# pseudo-code: "b (height width) (p1 p2 c) -> b c (height p1) (width p2)", with height, p1 and p2 given.
# most common error: `(c p1 p2)`, the order of lesson 5's `patchify`. DiT enters through a convolution, whose channels come first, and leaves with the channels last.

# %% [markdown]
# ## Who tells the blocks? (changes 3 to 6)
#
# Time passes through 128 frequencies and two layers, the class through a table with one extra row for "no class": lesson 2's parts. $c$ is their sum. A large $t$ means much noise, here as in DDPM, DiT, SD3 and FLUX; "high noise, low t" is the convention of Lipman's flow matching. There is no text: DiT hears a class of
# ImageNet.
#
# Then blocks that listen. For one more lesson `AdaLNZeroBlock` stays closed: it takes tokens and $c$. What matters here is what it does *before* it has learned anything.

# %% name="changes"
hear_time, hear_class = TimeEmbedder(64), LabelEmbedder(24, 64)
parts["condition"] = lambda t, labels: hear_time(t)
ask("3 the time")
parts["condition"] = lambda t, labels: hear_time(t) + hear_class(labels)
ask("4 plus the class")
listening = nn.ModuleList(AdaLNZeroBlock(64, num_heads=4) for _ in range(2))
for block in listening:
    for weight in block.adaLN_modulation.parameters():
        nn.init.zeros_(weight)  # as the library starts them
parts["block"] = lambda layer, tokens, c: listening[layer](tokens, c)
ask("5 blocks that listen, new")
with torch.no_grad():
    tokens, c = torch.randn(2, 16, 64), torch.randn(2, 64)
    print(f"{'':29}a new block returns its input, to the bit: {torch.equal(listening[0](tokens, c), tokens)}")
for block in listening:
    nn.init.normal_(block.adaLN_modulation[1].weight, std=0.5)
ask("5 blocks that listen, awake")
leave = FinalLayer(64, 4 * 4 * 3, "adaln-zero")
for weight in (*leave.linear.parameters(), *leave.adaLN_modulation.parameters()):
    nn.init.zeros_(weight)
parts["answer"] = lambda tokens, c: unpatchify(leave(tokens, c), 4, 4)
ask("6 a last layer of zeros", say=show)

# %% [markdown] exercise_card="dit.DiT.forward"
# ## Is that a DiT? (Exercise 6.3 · `DiT.forward`)
#
# At 3 and 4 somebody speaks and nobody listens. New, the blocks of 5 pass every token on untouched, so even the corner falls silent; awake, they turn every answer. Change 6 silences all: a new DiT answers zero. Every deviation from that is learned.
#
# Why this block? The paper tried four. XL/2 at 400,000 steps: FID-50K 35.24 in context, 26.14 with cross-attention, 25.21 with adaLN, 19.47 with adaLN-Zero (Table 4). A list of 5.67, 3.75, 2.98 and 2.27 also circulates; only 2.27 is in the paper, from another experiment (7 million steps, guidance 1.5). Lesson 7 opens
# the block.
#
# **Your turn.** After `_check`: tokens from `self.x_embedder` plus `self.pos_embed`; a list of what is heard, the time, then the class where `self.y_embedder` is not `None`; `self.run_blocks(tokens, heard, context)`; `self.final_layer` with `sum_of(heard)`; back to a picture with the configuration's `patch_size` and
# `self.rows`, the rows of patches.
#
# The check's cell puts the shipped weights into your network, then compares the library with diffusers: tiny networks, every tensor random, weights moved across.

# %% exercise="dit.DiT.forward"
from lesson_lib.dit import DiT

# %% name="check-forward"
DiT = check("dit.DiT.forward", DiT)
mine = DiT(shipped.config).to(device).eval()
mine.load_state_dict(shipped.state_dict())
given = noise[:8], torch.full((8,), 500.0, device=device), eight
with torch.no_grad():
    print(f"your network with the shipped weights: difference {(mine(*given) - shipped(*given)).abs().max():.1e}\n")
print("the library against diffusers:", parity("dit"))

# %% [markdown] hints="dit.DiT.forward"
# idea: the skeleton again: place, condition, blocks, answer.
# pseudo-code: tokens = x_embedder(x) + pos_embed; heard = [t_embedder(t)], and y_embedder(labels) where there is one; tokens = run_blocks(tokens, heard, context); unpatchify(final_layer(tokens, sum_of(heard)), patch_size, rows).
# most common error: adding the class inside `heard[0]`. The sum is the same, but blocks that take time and class as two tokens get one.

# %% [markdown]
# Read from the top. Moved rightly, the weights still give another answer: diffusers' DiT divides the exponents of its 128 frequencies by 127, and has an $\varepsilon$ of $10^{-5}$ in one norm where DiT's code has $10^{-6}$. Set both, on either side, and the two are one network. No test of shapes can see such a difference.

# %% [markdown] exercise_card="noise.learned_variance"
# ## Why twice the channels? (change 7, Exercise 6.4 · `learned_variance`)
#
# A DDPM step draws from a Gaussian. Two variances are defensible: $\beta$, right if the data were noise, and the posterior's $\tilde\beta$, right if they were one single picture. DiT lets the network choose, number by number, with a second half of channels $v$:
#
# $$ \log \sigma^2 = \tfrac{1+v}{2} \log \beta + \tfrac{1-v}{2} \log \tilde\beta, \qquad \tilde\beta = \beta\,\frac{1-\bar\alpha'}{1-\bar\alpha} $$
#
# **Your turn.** `v` is `(B, …)`; `alpha_bar` ($\bar\alpha$, now) and `alpha_bar_prev` ($\bar\alpha'$, at the step to go to) are `(B,)`; $\beta = 1 - \bar\alpha/\bar\alpha'$. Keep $\tilde\beta$ at or above $10^{-20}$; do not clamp $v$.
#
# The check's cell draws the choice for the 1,000 steps of training and for strides of 40, as in 25 steps of sampling; then the first loss of a new DiT without and with the second half.

# %% exercise="noise.learned_variance"
from lesson_lib.noise import learned_variance

# %% name="check-variance"
learned_variance = check("noise.learned_variance", learned_variance)
ddpm = Diffusion.linear(variance="learned")
curves, every = {}, torch.arange(1, 1000)
for stride in (1, 40):
    here, there = (ddpm.alpha_bar_at(step) for step in (every, (every - stride).clamp(min=0)))
    for v in (1, 0, -1):
        chosen = learned_variance(torch.full((999,), float(v)), here, there)
        curves[f"{1000 // stride} steps, v = {v}"] = chosen.where(every >= stride, torch.nan)
alt = "Variances: for 1000 steps the bounds meet after some ten steps; for 25 steps they stay apart for longer"
plot.lines(every, curves, xlabel="step t", ylabel="variance", logx=True, logy=True, alt=alt)

data = shapes(budget.choose(smoke=400, laptop=8000), size=16, seed=3, device=device)
few = data.images[:64], data.labels[:64]
for twice in (False, True):
    fresh = DiT(replace(DiTConfig.shapes16(), learn_sigma=twice)).to(device)
    first = denoising_loss(Diffusion.linear(variance="learned" if twice else "small"))(fresh, few, budget.generator(3))
    print(f"answer {tuple(fresh(*given).shape)}, first loss {first:.3f}")

# %% [markdown] hints="noise.learned_variance"
# idea: a straight line between two logarithms.
# pseudo-code: beta and the posterior's variance from the two alpha_bars, shaped to broadcast; share = (v + 1) / 2; exp(share · log beta + (1 − share) · log smallest).
# most common error: mixing the variances instead of their logarithms. Where the two lie orders of magnitude apart, the larger then always wins.

# %% [markdown]
# The plain network's first loss is near 1: it answers zero, and the mean square of noise is 1. The second half adds the variational term, in bits, which trains $v$ alone: the noise prediction is detached there (iDDPM, Eqs. 15 and 16). The longer the stride, the more there is to choose. A rectified flow draws nothing
# on its way, so our models do without.
#
# ## Does it learn?
#
# Your DiT on shapes, a tenth of the labels dropped. A wrapper around the loss looks on: it keeps an **average of the weights** (EMA, exponential moving average), and asks raw and averaged weights for their loss on unseen pictures. In the second half the learning rate falls to zero.


# %% name="train"
torch.manual_seed(0)
model, loss = DiT(DiTConfig.shapes16()).to(device), denoising_loss(flow, label_dropout=0.1)
steps, decay = budget.choose(smoke=4, laptop=4000, gpu=8000), 0.995
cooldown = steps // 2

unseen, average = shapes(200, size=16, seed=77, device=device), copy.deepcopy(model)
ticks, looked, seen, at_the_turn = itertools.count(), [], {"raw": [], "averaged": []}, {}


def watched(network, batch, generator):
    step = next(ticks)
    with torch.no_grad():
        for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(weight, 1 - min(decay, (1 + step) / (10 + step)))  # forgets its start
        if step % max(1, steps // 40) == 0:
            looked.append(step)
            for name, net in (("raw", model), ("averaged", average)):
                seen[name].append(float(loss(net, (unseen.images, unseen.labels), budget.generator(4))))
        if step == steps - cooldown:
            at_the_turn.update(copy.deepcopy({"raw": model, "averaged": average}))
    return loss(network, batch, generator)


record = fit(
    model, (data.images, data.labels), watched,
    steps=steps, batch_size=32, lr=2e-3, warmup=50, cooldown=cooldown, ema=decay,
)  # fmt: skip
print(f"{len(data)} pictures, {record.steps} steps, {record.seconds:.0f} s, {record.images_per_second:.0f} pictures/s")
print(f"peak memory {record.peak_memory_mb:.0f} MB on {record.device}; budget: {budget.name}")
plot.losses(record, alt="Training loss of your DiT on shapes", logy=True)

# %% name="accuracy"
count = budget.choose(smoke=24, laptop=240, gpu=960)
orders = torch.arange(count, device=device) % 24
begin = torch.randn(count, 3, 16, 16, generator=budget.generator(5), device=device)


def report(name, net, scale=2.0):
    drawn = sample(net, orders, begin, scale)
    right = round(prompt_accuracy(drawn, orders, judge) * count)
    share, low, high = results.proportion_interval(right, count)
    print(f"{name:32} {share:6.1%} of {count} as asked, 95 % interval [{low:.1%}, {high:.1%}]")
    return share


report("shipped, scale 2", shipped)
shares = {scale: report(f"yours, scale {scale:g}", model, scale) for scale in (1.0, 2.0, 3.0)}
print(f"wanted of yours at scale 2: 90 %. {'Reached.' if shares[2.0] >= 0.9 else 'Not reached in so few steps.'}")
rows = {"yours": sample(model, eight, noise[:8]), "shipped": sample(shipped, eight, noise[:8])}
rows["real"] = torch.stack([data.images[data.labels == k][0] for k in eight])
plot.sample_rows(rows, column_titles=names, alt="Your samples, the shipped DiT's from the same noise, real pictures")

# %% [markdown]
# ## Which weights do you keep?
#
# At a constant rate the weights never settle; they circle around a place, and their average lies nearer to it. What the wrapper saw; then samples from the moment before the rate began to fall.

# %% name="ema"
alt = "Loss on unseen pictures of raw and averaged weights; the rate falls in the second half"
plot.lines(looked, seen, xlabel="training step", ylabel="loss on unseen pictures", logy=True, alt=alt)
print(f"at step {steps - cooldown}, before the learning rate falls:")
for name, net in at_the_turn.items():
    report(f"{name} weights", net)
rows = {f"{name}, step {steps - cooldown}": sample(net, eight, noise[:8]) for name, net in at_the_turn.items()}
rows["end"] = sample(model, eight, noise[:8])
plot.sample_rows(rows, column_titles=names, alt="Samples of raw and averaged weights before the end, and at the end")

# %% [markdown]
# Early, the average lags behind. Where the rate falls, the raw weights come to rest by themselves. In between the curve shows what an average is for; shares of a few hundred samples are too coarse to. DiT keeps its rate constant to the end, averages with a decay of 0.9999 and reports the average only (§4). So long a memory needs a long training: in yours it would still hold the
# start.
#
# ## What does guidance guide?
#
# Two *outputs* of the network, with the class and without, are extrapolated (lesson 2); attention weights are not scaled, whatever you may read. Turn the dial; then the class of clothes.

# %% name="dial"
scales = [0.0, 1.0, 2.0, 3.0, 5.0, 8.0]
drawn = {scale: sample(shipped, eight.repeat(2), noise, scale) for scale in scales}


def draw(scale):
    rows = {f"noise {i + 1}": part for i, part in enumerate(drawn[scale].split(8))}
    plot.sample_rows(rows, alt=f"Eight classes twice, guidance scale {scale:g}")


widgets.slider(draw, scales, label="guidance scale", alt="Sixteen samples from the same noise at six guidance scales")

# %% name="dial-class"
wardrobe = torch.randn(8, 4, 8, 8, generator=budget.generator(6), device=device)


def hang(name):
    label = torch.full((8,), clothes.index(name), device=device)
    pieces = tailor.from_latents(sample(dresser, label, wardrobe))
    plot.sample_grid(pieces, columns=4, alt=f"Eight samples of the class {name}")


widgets.menu(clothes, hang, label="class", alt="Eight samples from the same noise for several classes of clothes")

# %% [markdown] exercise_card="guidance.guide_first"
# ## What if one channel is forgotten? (Exercise 6.5 · `guide_first`)
#
# At scale 0 the class is ignored; far beyond 1 it is overdone. Which channels does this concern? The variance half is no direction to exaggerate, so DiT guides the first channels only. The code came from a model of RGB pictures and guides *three*. DiT's latents have four. The authors call it unintended and kept it so that
# their numbers can be repeated (pull request 12); diffusers guides all four. Same weights, same scale, other pictures.
#
# **Your turn.** Guide the first `channels` of two predictions `(B, C, H, W)` with `guide`; the other channels stay as they are *with* the class.
#
# The check's cell draws clothes at scale 4, with three channels guided and with four. The paper's rule of thumb: $1 + x$ on three is about as strong as $1 + \tfrac34 x$ on four (App. A). Last row: that.

# %% exercise="guidance.guide_first"
from lesson_lib.guidance import guide_first

# %% name="check-guide-first"
guide_first = check("guidance.guide_first", guide_first)
rows = {"no guidance": tailored(1.0), "three of four, 4": tailored(4.0, guide_first)}
rows |= {"all four, 4": tailored(4.0), "all four, 3.25": tailored(3.25)}
plot.sample_rows(rows, column_titles=clothes, alt="Clothes without guidance and with three or four channels guided")
for name in ("all four, 4", "all four, 3.25", "no guidance"):
    gap = (rows["three of four, 4"] - rows[name]).abs().mean()
    print(f"three of four against {name:15} mean difference of a pixel {gap:.3f}")

# %% [markdown] hints="guidance.guide_first"
# idea: cut along the channels, guide one part, put the two together again.
# pseudo-code: guided = guide(cond[:, :channels], uncond[:, :channels], scale); cat([guided, cond[:, channels:]], dim=1).
# most common error: taking the rest from the prediction *without* the class. Then a part of the picture has never heard what you asked for.

# %% [markdown] exercise_card="evaluate.gaussian_frechet"
# ## How far apart are equals? (Exercise 6.6 · `gaussian_frechet`)
#
# The eye hardly sees which channels were guided; a table does. In the paper, 1.5 on three gives FID 2.27, and 1.375 on four 2.20 (App. A). What are these numbers? Send real and generated pictures through a frozen network (Inception), fit a Gaussian to the 2,048 features of each set, and take the Fréchet distance of the two:
#
# $$ d^2 = \lVert \mu_a - \mu_b \rVert^2 + \mathrm{Tr}\,\big(\Sigma_a + \Sigma_b - 2\,(\Sigma_a \Sigma_b)^{1/2}\big) $$
#
# **Your turn.** Means are `(F,)`, covariances `(F, F)`; return a float of at least 0; work in float64. For the trace of the root: $\Sigma_a^{1/2} \Sigma_b \Sigma_a^{1/2}$ is symmetric and has the eigenvalues of $\Sigma_a \Sigma_b$. `torch.linalg.eigh` is for symmetric matrices; clamp eigenvalues at 0 before a root.
#
# The check's cell measures what should be zero: two sets of $N$ real pictures, by the judge's 64 features; and two sets from one standard Gaussian of as many dimensions. For these there is a formula: each set adds about $\frac dN + \frac{d(d+1)}{4N}$.

# %% exercise="evaluate.gaussian_frechet"
from lesson_lib.evaluate import gaussian_frechet

# %% name="check-frechet"
gaussian_frechet = check("evaluate.gaussian_frechet", gaussian_frechet)
sizes, again = [100, 200, 400, 800, 1600][: budget.choose(smoke=3, laptop=5)], budget.choose(smoke=3, laptop=6)
features = judge.features(shapes(2 * again * sizes[-1], size=16, seed=91, device=device).images)
numbers = torch.randn(again, 2, sizes[-1], 64, generator=torch.Generator().manual_seed(0))


def fitted(points):
    return points.mean(dim=0), torch.cov(points.double().T)


def apart(pairs):  # of the first N of either set
    return [[gaussian_frechet(*fitted(a[:n]), *fitted(b[:n])) for n in sizes] for a, b in pairs]


series = {"real pictures": apart(features.view(numbers.shape)), "a Gaussian": apart(numbers)}
series["formula, twice"] = [[2 * (64 / n + 64 * 65 / (4 * n)) for n in sizes]] * again
alt = "Three straight falling lines on logarithmic axes: the distance of equal distributions shrinks as 1/N"
plot.curves(sizes, series, xlabel="samples N in each set", ylabel="Fréchet distance", logx=True, logy=True, alt=alt)
unet_dit = results.load("unet_dit")
drawn_once = unet_dit.configuration["samples"]
others = fitted(judge.features(shapes(2 * drawn_once, size=16, seed=77, device=device).images))
floor = results.interval([gaussian_frechet(*fitted(part), *others) for part in features.split(drawn_once)[:5]])
print(f"{drawn_once} real pictures against {2 * drawn_once} others: {floor[0]:.2f} [{floor[1]:.2f}, {floor[2]:.2f}]")
revisit("dit.q3")

# %% [markdown] hints="evaluate.gaussian_frechet"
# idea: five terms; four are a norm and traces, the fifth needs the eigenvalues of one symmetric matrix.
# pseudo-code: all to double; values, vectors = eigh(cov_a); root = vectors · sqrt(values) · vectorsᵀ; middle = root · cov_b · root; |μa − μb|² + tr Σa + tr Σb − 2 × the sum of sqrt(eigvalsh(middle)); not below 0.
# most common error: `cov_a.sqrt()`, the root of every entry. A matrix's root is another thing.

# %% [markdown]
# Perfect samples score above zero, by about $1/N$: the fewer pictures, the worse a model looks. That is a **bias**; averaging does not remove it. It depends on the distribution too, so an equal $N$ makes a comparison fairer, not fair (arXiv 1911.07023). Hence "50K" belongs to the name: XL/2 at 400,000 steps has an FID-50K of
# 19.47 and, sampled with fewer steps, an FID-10K of 23.7. The last line printed is what *perfect* samples would get in our records below. And the features are the judge's, not Inception's: FD-judge is no FID.

# %% [markdown] exercise_card="dit.macs"
# ## What is a Gflop? (Exercise 6.7 · `macs`)
#
# The other axis. In this literature a "flop" is one multiply-accumulate. For one picture, in the order of the forward pass:
#
# | part | multiply-accumulates |
# |---|---|
# | first and last layer | $p^2 N D\,(C_\text{in} + C_\text{out})$ |
# | each block, for its tokens | $12 N D^2 + 2 N^2 D$ |
# | each block, for its condition | $6 D^2$ |
# | time | $256 D + D^2$ |
# | modulation of the last layer | $2 D^2$ |
#
# **Your turn.** Sum up a `DiTConfig`: `hidden_size`, `depth`, `grid` (patches along a side), `patch_size`, `in_channels`, `out_channels`. Return a whole number.
#
# The check's cell counts the twelve on torch's `meta` device, beside your formula and Table 4; then it looks up a row that is often quoted as *the* Gflops of DiT-S, B, L and XL.

# %% exercise="dit.macs"
from lesson_lib.dit import macs

# %% name="check-macs"
macs = check("dit.macs", macs)
print(f"{'':6}{'tokens':>8}{'weights':>14}{'formula':>10}{'counted':>10}{'paper':>9}   G")
formula = {}
for name, (told, _) in paper.items():
    config = DiTConfig.paper(name)
    with torch.device("meta"):
        net = DiT(config)
        counted = count_macs(net, torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.int64))
    weights, formula[name] = sum(w.numel() for w in net.parameters() if w.requires_grad), macs(config) / 1e9
    print(f"{name:6}{config.grid**2:>8}{weights:>14,}{formula[name]:>10.2f}{counted / 1e9:>10.2f}{told:>9.2f}")
for size, quoted in {"S": 0.4, "B": 5.6, "L": 35.6, "XL": 119}.items():
    near = min(formula, key=lambda name: abs(formula[name] - quoted))
    match = "that is" if abs(formula[near] / quoted - 1) < 0.12 else "none of the twelve; the nearest is"
    print(f"often quoted for DiT-{size}: {quoted:g}, {match} {near} ({formula[near]:.2f})")

# %% [markdown] hints="dit.macs"
# idea: the table, term by term; blocks count depth times.
# pseudo-code: N = grid²; ends + depth × (12 N D² + 2 N² D + 6 D²) + 256 D + D² + 2 D².
# most common error: multiplying the $6 D^2$ by N. The modulation is computed once a picture, not once a token.

# %% [markdown]
# The quoted row mixes three patch sizes and a number of no DiT. Halve the patch: the weights hardly change, the tokens quadruple. So there are two ways to spend arithmetic, wider or finer.
#
# ## Wider or finer?
#
# The plot again, with the patch sizes. The paper concludes that FID follows the Gflops, with a correlation of −0.93 (Fig. 8). Is that the Gflops, or their logarithm? Table 4 can be asked.

# %% name="ablation-grid"
clouds("The same dots joined by patch size: the paper's patches of 8 lie far above, our lines cross", named=True)
gflops, fid = torch.tensor(list(paper.values())).T
print("correlations:")
for name, axis in (("log Gflops", gflops.log()), ("Gflops", gflops)):
    print(f"the paper's:     FID with {name:13} {torch.corrcoef(torch.stack([axis, fid]))[0, 1]:+.3f}")
for name, (mean, low, high) in correlation(grid).items():
    print(f"ours, {len(grid.seeds)} seeds:    FD-judge with {name:8} {mean:+.3f} [{low:+.3f}, {high:+.3f}]")
trio = ("p8 w256", "p4 w128", "p2 w64")
print("   ".join(f"{name}: {grid.values(name, 'macs_millions')[0]:.1f} M" for name in trio))
print(results.verdict(grid, "fd_judge", variants=trio))
revisit("dit.q2")

# %% [markdown]
# It is the logarithm. And look at the largest patches: L/8 spends 5.01 G for an FID of 118.87, B/4 5.56 G for 68.38. Sixteen tokens are too few there, however wide. Our lines cross; what is established of wider against finer stands in the verdict, for 16 × 16 shapes and short trainings of equal length.
#
# ## U-Net or DiT?
#
# Lesson 3's U-Net, a DiT of as many multiply-accumulates, a DiT of as many weights. Same pictures, steps, noise and judge.

# %% name="ablation-unet"
alt = "FD-judge of a U-Net and two DiTs, one dot a seed, with intervals"
plot.intervals(unet_dit, "fd_judge", better="lower", xlabel="FD-judge", alt=alt)
for name in unet_dit.variants:
    cost, weights = (unet_dit.values(name, metric)[0] for metric in ("macs_millions", "parameters"))
    print(f"{name:24} {cost:5.1f} M multiply-accumulates, {weights:,.0f} weights")
print(f"{unet_dit.configuration['steps']} steps a run, {len(unet_dit.seeds)} seeds; a perfect model: {floor[0]:.2f}\n")
for metric, better in {"fd_judge": "lower", "accuracy": "higher"}.items():
    print(results.verdict(unet_dit, metric, better=better))
revisit("dit.q1")

# %% [markdown]
# Read both metrics: FD-judge takes in the whole picture, grain and stray pieces included, accuracy only whether the order can be read. A U-Net's convolutions know from the first step that neighbours belong together; a DiT must learn it, and these steps are few. The paper's claim is another one, about scale: at 256², XL/2 with guidance has FID 2.27 with
# 119 G a call, ADM's best 3.94 with 742 G (Tables 2, 4 and 6). Our record neither supports nor contradicts it.

# %% [markdown] exercise_card="dit.unpatchify_bug"
# ## When does a round trip prove nothing? (Exercise 6.8 · find the bug)
#
# A student "tidied" `unpatchify` until it undid lesson 5's `patchify` exactly, and trained a DiT that draws well. Then came the shipped weights. Run the next cell without reading it.
#
# **Your turn.** Below it stands the student's function. Mend it.


# %% name="symptom" cellView="form"
@torch.no_grad()
def scrambled(x, t, labels):
    out = shipped(x, t, labels)
    words = rearrange(out, "b c (height p1) (width p2) -> b (height width) (p1 p2 c)", p1=4, p2=4)
    return rearrange(words, "b (height width) (c p1 p2) -> b c (height p1) (width p2)", height=4, p1=4, p2=4)


scrambled.num_classes = 24
rows = {"the library's": sample(shipped, eight, noise[:8]), "the student's": sample(scrambled, eight, noise[:8])}
plot.sample_rows(rows, column_titles=names, alt="Samples with the right unpatchify, and noise with the student's")

# %% exercise="dit.unpatchify_bug"
from lesson_lib.dit import unpatchify

# %% name="check-unpatchify-bug"
unpatchify = check("dit.unpatchify_bug", unpatchify)

# %% [markdown] hints="dit.unpatchify_bug"
# idea: follow one number of the last layer: the second. Which pixel is it, and of which colour?
# pseudo-code: in the brackets on the left the channel must stand where it runs fastest: last.
# most common error: mending `patchify` instead. The entrance is a convolution, whose order is right; entrance and exit of a DiT differ.

# %% [markdown]
# The last layer can learn its outputs in any order, so no training shows this bug, and no round trip; only somebody else's weights do.
#
# ## What did they break?
#
# A trained a small DiT on real digits. B and C sample the shipped shapes model, at scale 2. Run the next cell without reading it. What did each do, and whose mistake could a loss have shown?

# %% name="break-it-run" cellView="form"
real_digits = digits("train").to(device)


def learn(change=lambda net: None):
    torch.manual_seed(0)
    net = DiT(DiTConfig.digits()).to(device)
    change(net)
    work = budget.choose(smoke=10, laptop=400, gpu=1500)
    return net, fit(net, (real_digits.images, real_digits.labels), loss, steps=work, batch_size=32, lr=2e-3,
                    warmup=50, ema=0.98, progress=False)  # fmt: skip


def hasty(x, t, labels):
    return shipped(x, t / 1000, labels)


hasty.num_classes = 24
crossed = copy.deepcopy(shipped)
crossed.pos_embed.data = shipped.pos_embed.data.roll(64, dims=-1)
(sound, first), (a, second) = learn(), learn(lambda net: net.pos_embed.data.zero_())
plot.losses({"sound": first, "A": second}, alt="Two loss curves on digits: A's lies above the sound one")
digit = torch.arange(200, device=device) % 10
ink = torch.randn(200, 1, 8, 8, generator=budget.generator(7), device=device)
rows = {}
for name, net in {"sound": sound, "A": a}.items():
    drawn = sample(net, digit, ink)
    rows[name] = drawn[:10]
    print(f"{name:6} {class_accuracy(drawn, digit):6.1%} of 200 digits as asked")
plot.sample_rows(rows, column_titles=[str(i) for i in range(10)], alt="Digits: sound ones, and A's loose strokes")
rows = {"sound": sample(shipped, eight, noise[:8])}
rows |= {name: sample(net, eight, noise[:8]) for name, net in {"B": hasty, "C": crossed}.items()}
plot.sample_rows(rows, column_titles=names, alt="Shapes: sound ones, B's, and C's with patches in wrong places")

# %% [markdown]
# <details><summary>A</summary>
#
# No table of places. Patches are a set: each is denoised by what it shows and by what the others show, wherever those are. The loss falls, and stays above the sound one.
# </details>
# <details><summary>B</summary>
#
# The time went in as 0 to 1. A network trained with 0 to 1000 hears "almost clean" at every step. So it never agrees on a whole; every corner sharpens what chance left there. Trained that way from the start, it could learn around it.
# </details>
# <details><summary>C</summary>
#
# The table's halves are exchanged, the row first. Every patch is drawn for the place mirrored at the diagonal: upright pieces, put where their mirror image belongs. Trained with that table, nothing would be wrong.
# </details>
#
# Only A's shows in a loss. In your own words:

# %% name="in-words"
prose("dit.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | what differs from yours |
# |---|---|
# | facebookresearch/DiT, `models.py` | labels are dropped inside; `forward_with_cfg` guides three channels |
# | the same, `diffusion/gaussian_diffusion.py` | your variance, and the variational term |
# | the same, `train.py` | rate $10^{-4}$ throughout; latents are drawn, times 0.18215 |
# | huggingface/diffusers, `DiTTransformer2DModel` | time and class embedded anew in every block; 127 |
# | baofff/U-ViT, `libs/uvit.py` | another answer: learned places, time and class as tokens, long skips |
#
# **A trap.** FID is measured on saved pictures, and the filter that resizes them moves it by points; DiT leaves the measuring to ADM's program. Its own Tables 3 and 4 give 12.03 and 11.93 for one model at 512². Read less into small differences.
#
# ## What have you got now?
#
# * Seven changes: a fixed table, patches for an answer, the time, the class, blocks that listen, a last layer of zeros, twice the channels.
# * Keep the average of the weights, or let the rate fall.
# * A Fréchet distance without its $N$ is no number, and a Gflop says little without its patch size.
#
# So a ViT must be told where, when and what, and be let answer in patches. *How* it listens is lesson 7. From now on you can import `lesson_lib.dit` and `lesson_lib.position`. Three references:
#
# * Peebles and Xie, *DiT* (arXiv 2212.09748): Fig. 3 is your class, Table 4 the plot.
# * Nichol and Dhariwal, *Improved DDPM* (arXiv 2102.09672), §3.1: the learned variance.
# * Chong and Forsyth, *Effectively unbiased FID* (arXiv 1911.07023): the bias, and how to extrapolate it away.

# %% name="score"
score("06")
