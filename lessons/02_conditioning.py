# %% [markdown] title_card="02"
# # 2 · How does a network hear the time and the class?
#
# *A denoiser is given a noisy picture and two facts about it: how noisy it is, and what it should become. Both arrive as single numbers.
# What must happen to a number before a stack of convolutions can use it?*

# %% name="setup" lesson="02"
from lesson_lib.setup import start_lesson

budget = start_lesson("02")

# %% name="imports"
import torch
import torch.nn.functional as F
from torch import nn

from lesson_lib import plot, results, samplers, widgets
from lesson_lib.data import digits
from lesson_lib.denoiser import PointDenoiser
from lesson_lib.evaluate import class_accuracy, count_macs, digit_judge
from lesson_lib.exercises import check, predict, prose, revisit, score
from lesson_lib.experiments.injection import image_reader
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.official.parity import parity
from lesson_lib.train import denoising_loss, fit

device = budget.device
recipe = {"lr": 2e-3, "warmup": 50, "ema": 0.99}  # of every training below

# %% [markdown]
# ## What does one dial do?
#
# A shipped network draws each digit five times. A column starts from the same noise in every row; only the *guidance scale* changes.

# %% name="picture-first"
from lesson_lib.guidance import Guided

shipped, flow = load_shipped("digits-flow", device)
ten = torch.arange(10, device=device)
noise = torch.randn(10, 1, 8, 8, generator=budget.generator(1), device=device)


def sample(model, start):
    return samplers.euler(model, start, budget.choose(smoke=4, laptop=24, gpu=50), flow)


rows = {f"scale {s:g}": sample(Guided(shipped, ten, s), noise) for s in (0.0, 1.0, 2.0, 4.0, 8.0)}
asked_for = [f"asked: {i}" for i in range(10)]
plot.sample_rows(
    rows, column_titles=asked_for, alt="Ten digits at five guidance scales; a column starts from one noise"
)
guidance = results.load("guidance_scale")
shares = {"recognised": "accuracy", "precision": "precision", "recall": "recall"}
shares = {name: guidance.variants["flow"][metric] for name, metric in shares.items()}
scales, alt = guidance.x["values"], "Recognised samples, precision and recall by guidance scale, with bands over seeds"
plot.curves(scales, shares, xlabel="guidance scale", ylabel="share", alt=alt)

# %% [markdown]
# Precision is the share of samples that lie near real digits, recall the share of real digits that lie near samples. At scale 0 nobody told the network what to draw. Look down a column: when does the right digit appear, and what is lost further down? By the end you can
# write every line between the label and the picture. Before you look, two guesses:

# %% name="guesses"
predict("condition.q1")
predict("guidance.q1")

# %% [markdown]
# ## What does a network look like that hears nothing?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $t$ | `t` | `(B,)` | time, 0 (data) to 1000 (noise), as networks are fed it |
# | $\omega_i$ | `frequency` | `(size / 2,)` | speed of clock hand $i$, radians per unit of $t$ |
# | $y$, $\varnothing$ | `labels`, `null_label` | `(B,)`, one number | class, and "no class" |
# | $c$ | `condition` | `(B, D)` or `(B, M, D)` | what the network is told: a vector, or $M$ tokens |
# | $h$ | `h` | `(B, C, H, W)` | features: $C$ numbers at each place |
# | $\gamma, \beta$ | `scale`, `shift` | `(B, C)` | what a condition does to each feature |
# | $s$ | `scale` in `guide` | one number | guidance scale; 1 is none |
#
# Here are all the parts, and all are deaf. The test turns one knob at a time and asks whether the output moved.


# %% name="skeleton"
@torch.no_grad()
def hearing_test(time, label, inject, combine):
    """Turn the time, the class and the guidance scale in turn, and say which of them reaches the output."""
    torch.manual_seed(0)
    enter, leave = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)
    x, t, labels = torch.randn(2, 1, 8, 8), torch.tensor([100.0, 900.0]), torch.tensor([3, 7])

    def run(t, labels, scale=1.0):
        halves = []
        for asked in (labels, torch.full_like(labels, 10)):  # with the class, then with the null class
            condition = time(t) + label(asked)
            h = inject(enter(x), condition)
            halves.append(leave(F.silu(h)))
        return combine(*halves, scale), [tuple(part.shape) for part in (t, condition, h, halves[0])]

    before, trace = run(t, labels)
    print("time {} → condition {} → features {} → prediction {}".format(*trace))
    after = {"time": run(t + 50, labels), "class": run(t, labels + 1), "guidance scale": run(t, labels, 3.0)}
    for knob, (output, _) in after.items():
        print(f"hears the {knob:14} {'no' if torch.allclose(before, output, atol=1e-5) else 'yes'}")


def deaf(number):
    return torch.zeros(len(number), 16)


hearing_test(deaf, deaf, inject=lambda h, condition: h, combine=lambda conditional, unconditional, scale: conditional)

# %% [markdown] exercise_card="embed.sinusoidal"
# ## Why not feed the number itself? (Exercise 2.1 · `sinusoidal`)
#
# Three times "no": you replace the four dummies in order. First the time.
#
# A layer multiplies and adds. Given $t = 3$ and $t = 4$ it can hardly answer differently; given $t = 999$ its outputs are hundreds of times larger. Division by 1000
# cures the second trouble and worsens the first. Neighbouring noise levels must *look* different.
#
# A clock does that: hour, minute and second hand are three frequencies of one time. Here are `size / 2` hands, each read as a cosine and a sine:
#
# $$ \omega_i = 10000^{-i/(\mathrm{size}/2)}, \qquad e(t) = (\cos \omega_0 t, \cos \omega_1 t, \dots,\; \sin \omega_0 t, \sin \omega_1 t, \dots) $$
#
# The fastest moves one radian per unit of $t$, the slowest hardly at all.
#
# **Your turn.** `t` is `(B,)`; return `(B, size)`, all cosines, then all sines, on `t.device`. The check asks for the convention `"dit"`, with two values of `max_period`.
# Its cell then draws your clock at 200 times.

# %% exercise="embed.sinusoidal"
from lesson_lib.embed import sinusoidal

# %% name="check-sinusoidal"
sinusoidal = check("embed.sinusoidal", sinusoidal)
clock = sinusoidal(torch.arange(0, 1000, 5.0), 64)
with plot.figure(
    alt="Features of 200 times: fast stripes at the left of each half, hardly any change at its right"
) as fig:
    axes = fig.subplots()
    axes.grid(False)
    shown = axes.imshow(clock, cmap="PuOr_r", aspect="auto", extent=(-0.5, 63.5, 1000, 0))
    axes.set(xlabel="feature: 32 cosines, then 32 sines", ylabel="time t")
    fig.colorbar(shown, ax=axes, label="value")

# %% [markdown] hints="embed.sinusoidal"
# idea: One row for each time, one column for each hand: a column of times against a row of frequencies, then two functions of the same angles.
# pseudo-code: half = size / 2; frequency = max_period to the power −i / half for i = 0 … half − 1; angle = t as a column × frequency as a row; cosines, then sines, side by side.
# most common error: dividing by half − 1. Then the slowest hand is a little slower, nothing looks wrong, and weights from another model no longer fit.

# %% [markdown]
# Does it help? Three copies of one small network learn a curve of $t$, slow at first and fast later, from three descriptions of $t$. Grey is wanted, coloured is learned.

# %% name="why-not-the-number"
times = torch.arange(0, 1000, 2.0)
wanted = torch.sin(45 * (times / 1000) ** 2)
inputs = {"t itself": times[:, None], "t / 1000": times[:, None] / 1000, "clock hands": sinusoidal(times, 64)}
work = budget.choose(smoke=60, laptop=600)


def squared_error(model, batch, generator):
    return (model(batch[0])[:, 0] - batch[1]).square().mean()


with plot.figure(alt="Fits of one curve: t itself and t / 1000 miss it, the clock hands follow it", height=2.6) as fig:
    for axes, (name, given) in zip(fig.subplots(1, 3, sharey=True), inputs.items(), strict=True):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(given.shape[1], 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
        fit(net, (given, wanted), squared_error, steps=work, **recipe, progress=False)
        learned = net(given)[:, 0].detach()
        axes.plot(times, wanted, color="#8A8A8A")
        axes.plot(times, learned, color=plot.COLOUR["v"])
        axes.set(title=f"{name}: error {(learned - wanted).square().mean():.3f}", xlabel="t", ylim=(-1.8, 1.8))

# %% [markdown]
# The number itself fails because no single scale shows both its coarse and its fine part.
#
# ## Is there one such table?
#
# | convention | order | exponent of hand $i$ (`size` 256) | where |
# |---|---|---|---|
# | `"ddpm"` | sines, cosines | $-i/127$ | hojonathanho/diffusion, `diffusion_tf/nn.py` |
# | `"dit"`, ours | cosines, sines | $-i/128$ | ADM, DiT, SD3, FLUX |
# | `"diffusers-dit"` | cosines, sines | $-i/127$ | diffusers, `CombinedTimestepLabelEmbeddings` |
#
# The last row is the trap: diffusers runs DiT's weights with a table that DiT was not trained on. By how much do the hands disagree?

# %% name="conventions"
hand = torch.arange(128, dtype=torch.float64)
apart = 10000 ** (-hand / 128) - 10000 ** (-hand / 127)  # radians per unit of time
print(f"128 against 127: at t = 999 up to {(999 * apart).max():.2f} rad apart (hand {int(apart.argmax())})")
phases, alt = {f"t = {t}": t * apart for t in (999, 500, 100)}, "Phase difference of each of 128 hands at three times"
plot.lines(hand, phases, xlabel="hand (0 is the fastest)", ylabel="phase difference (rad)", alt=alt)

# %% [markdown]
# At π radians a hand points the other way. There is no one table: a converter must carry the convention along with the weights. What
# follows the table is two layers; this cell uses *your* `sinusoidal`.

# %% source="embed.TimeEmbedder"
from lesson_lib.embed import TimeEmbedder

# %% [markdown] exercise_card="embed.drop_labels"
# ## How does one network work with a class and without? (Exercise 2.2 · `drop_labels`)
#
# A class needs no clock: `nn.Embedding`, a table with one learned row a class. Ours has one row more, the **null class** $\varnothing$, "any digit". No picture is labelled so. You make it in
# training: for one picture in ten, forget the label on purpose.
#
# **Your turn.** Draw one uniform number for each of the `labels` `(B,)` from `generator`, on its device; where it lies below `probability`, the label becomes `null_label`. Leave
# the argument as it is. The check's cell draws twelve batches at probability 0.1; dropped labels are black.

# %% exercise="embed.drop_labels"
from lesson_lib.embed import drop_labels

# %% name="check-drop_labels"
drop_labels = check("embed.drop_labels", drop_labels)
whole = torch.arange(60) % 10
batches = torch.stack([drop_labels(whole, 0.1, 10, torch.Generator().manual_seed(i)) for i in range(12)])
share, low, high = results.proportion_interval(int((batches == 10).sum()), batches.numel())
print(f"{share:.1%} of {batches.numel()} labels were dropped; 95 % interval [{low:.1%}, {high:.1%}]")
with plot.figure(alt="Twelve batches of sixty labels as coloured cells; dropped ones are black", height=2.2) as fig:
    axes = fig.subplots()
    axes.grid(False)
    axes.imshow(batches.float().masked_fill(batches == 10, torch.nan), cmap="Pastel1", aspect="auto")
    axes.set(xlabel="place in the batch", ylabel="batch", facecolor="black")

# %% [markdown] hints="embed.drop_labels"
# idea: A uniform number lies below p with probability p, so a comparison makes the mask.
# pseudo-code: mask = (one random number a label) < probability; where mask take null_label, elsewhere the label.
# most common error: assigning through the mask, `labels[mask] = null_label`. It works once; after a few epochs most of the data set has no labels left.

# %% [markdown] exercise_card="guidance.guide"
# ## What does the guidance scale multiply? (Exercise 2.3 · `guide`)
#
# Every class is now seen both ways, so one trained network gives two answers about a noisy picture: with the class, and with $\varnothing$. Both are velocities, arrows that say where to go. Their difference
# points from "what any digit would do" to "what a 7 would do". Guidance walks along it, and past its end:
#
# $$ \hat u = u_\varnothing + s\,(u_y - u_\varnothing) $$
#
# The scale multiplies that difference and nothing else. "Classifier-free guidance scales attention weights" is often written and is false: DiT's `models.py` combines two *outputs*, as here, and the
# network that you train below has no attention at all.
#
# **Your turn.** The formula, for predictions of any shape.

# %% exercise="guidance.guide"
from lesson_lib.guidance import guide

# %% name="check-guide"
guide = check("guidance.guide", guide)

# %% [markdown] hints="guidance.guide"
# idea: A point on the line through two points; beyond the second one for scales above 1.
# pseudo-code: difference = conditional − unconditional; return unconditional + scale × difference.
# most common error: starting from the conditional prediction. That is a convention too, but its numbers are smaller by one; see the table below.

# %% [markdown] exercise_card="guidance.guided_bug"
# ## Where is "off"? (Exercise 2.4 · debug `Guided`)
#
# | written as | no guidance at | who |
# |---|---|---|
# | $u_\varnothing + s\,(u_y - u_\varnothing)$ | $s = 1$ | DiT §3.1, SD3, diffusers, this course |
# | $(1 + w)\,u_y - w\,u_\varnothing$ | $w = 0$ | Ho and Salimans; SDXL, appendix C; U-ViT's code |
#
# One line with its zero moved: $s = 1 + w$. U-ViT's configured `scale=0.4` means 1.4 here. Before you compare two scales, find out where "off" is.
#
# **Your turn.** Samplers want a model of `(x, t)`. `Guided` makes one from a model of `(x, t, labels)`, sending both halves through as one batch. The version
# below was tried with one image and with scale 1, and looked right. With many images at scale 2 the digits are mixtures. Mend it.

# %% exercise="guidance.guided_bug"
from lesson_lib.guidance import Guided

# %% name="check-guided"
Guided = check("guidance.guided_bug", Guided)

# %% [markdown] hints="guidance.guided_bug"
# idea: Write down, for two images a and b, the order of the rows of each of the three arguments, and what chunk(2) takes.
# pseudo-code: images a b a b; times the same; labels: two real ones, then two null ones; first half is conditional.
# most common error: mending the labels and leaving the chunk, or the other way round. All four must agree on one order.

# %% [markdown]
# ## What does guidance do in the plane?
#
# Points before pictures. Three classes overlap in the middle, where a point does not tell its class. A small network learns them with a tenth of the labels dropped; then it is sampled at scales
# 1, 2 and 4. Below the points: the velocities of the top class at half time, and the paths of 25 points.

# %% name="toy"
centres = torch.tensor([[0.0, 1.3], [-1.13, -0.65], [1.13, -0.65]])
g = torch.Generator().manual_seed(0)
cloud_labels = torch.randint(3, (4000,), generator=g)
cloud = centres[cloud_labels] + 0.6 * torch.randn(4000, 2, generator=g)


def train_toy(label_dropout):
    torch.manual_seed(0)
    points, loss = PointDenoiser(width=64, num_classes=3), denoising_loss(flow, label_dropout=label_dropout)
    work = budget.choose(smoke=60, laptop=400)
    return points, fit(points, (cloud, cloud_labels), loss, steps=work, batch_size=256, **recipe, progress=False)


def describe(points, labels):
    nearest = (torch.cdist(points, centres).argmin(dim=1) == labels).float().mean()
    spread = torch.stack([points[labels == k].std(dim=0).mean() for k in range(3)]).mean()
    return f"nearest to their own centre {nearest:4.0%}, spread within a class {spread:.2f}"


toy, toy_record = train_toy(label_dropout=0.1)
start, thirds = torch.randn(600, 2, generator=g), torch.arange(600) % 3
clouds = {f"scale {s:g}": sample(Guided(toy, thirds, s), start) for s in (1.0, 2.0, 4.0)}
clouds, classes = {"data": cloud[:600]} | clouds, {"data": cloud_labels[:600]} | dict.fromkeys(clouds, thirds)
plot.points(clouds, classes=classes, extent=3.2, alt="Three classes: data, then scales 1, 2, 4, ever tighter and apart")
for name, points in clouds.items():
    print(f"{name:8} {describe(points, classes[name])}")

axis = torch.linspace(-3, 3, 15)
grid = torch.cartesian_prod(axis, axis)
half, top = torch.full((len(grid),), 500.0), torch.zeros(len(grid), dtype=torch.int64)
with plot.figure(alt="Arrows and paths of the top class at scales 1, 2, 4, bending ever further up", height=3.1) as fig:
    for axes, s in zip(fig.subplots(1, 3, sharey=True), (1.0, 2.0, 4.0), strict=True):
        arrows = -Guided(toy, top, s)(grid, half).detach()
        way = samplers.euler(Guided(toy, top[:25], s), start[:25], 24, flow, trajectory=True)
        axes.plot(*way.unbind(2), color="#8A8A8A", linewidth=0.8)
        axes.quiver(*grid.T, *arrows.T, color=plot.COLOUR["u"], angles="xy", scale_units="xy", scale=14, width=0.005)
        axes.scatter(*way[-1].T, s=14, color=plot.COLOUR["eps"], zorder=3)
        axes.set(title=f"scale {s:g}", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# From scale 1 upwards the classes separate, and each becomes narrower than its data. The arrows show why: at scale 1 they aim at the whole class; as the scale grows they aim away from the other two, and
# points from everywhere end in one corner. Guidance sharpens a class and narrows it, in one move.

# %% [markdown] exercise_card="condition.Concat.forward"
# ## How does a vector reach every place of a picture? (Exercise 2.5 · `Concat.forward`)
#
# The condition is one vector; the features are $C$ numbers at 64 places. Four ways to bring them together:
#
# | way | what each place gets | can places differ? |
# |---|---|---|
# | concat | $W\,[h; c] + b$ | no |
# | add | $h + W c + b$ | no |
# | FiLM | $h \odot (1 + \gamma(c)) + \beta(c)$ | no |
# | cross-attention | $h + $ an answer to its own question | with two or more tokens |
#
# **Your turn.** `h` is `(B, C, H, W)`, `condition` is `(B, D)`. Paste a copy of the condition behind the features of every place; `self.mix` brings the `C + D` channels back to `C`.

# %% exercise="condition.Concat.forward"
from lesson_lib.condition import Concat

# %% name="check-concat"
Concat = check("condition.Concat.forward", Concat)

# %% [markdown] hints="condition.Concat.forward"
# idea: A 1×1 convolution treats every place alike, so every place must hold the whole condition.
# pseudo-code: stretch condition to (B, D, H, W); join after h along the channels; mix.
# most common error: the wrong order. The weights of `mix` know features first; the loss falls all the same, until you load somebody else's checkpoint.

# %% [markdown]
# `Add` is shorter; here it is whole. Then: split the weights of your `Concat` into those that see $h$ and those that see $c$, and give the second half to `Add`.

# %% source="condition.Add"
from lesson_lib.condition import Add

# %% name="concat-is-add"
torch.manual_seed(0)
concat, add, h, c = Concat(8, 6), Add(8, 6), torch.randn(2, 8, 4, 4), torch.randn(2, 6)
with torch.no_grad():
    add.project.weight.copy_(concat.mix.weight[:, 8:, 0, 0])
    add.project.bias.copy_(concat.mix.bias)
    mixed = F.conv2d(h, concat.mix.weight[:, :8])
    print(f"Concat(h, c) against Add(mixed h, c): largest difference {(concat(h, c) - add(mixed, c)).abs().max():.1e}")

# %% [markdown] exercise_card="condition.FiLM.forward"
# ## What can adding not do? (Exercise 2.6 · `FiLM.forward`)
#
# The difference is rounding: concatenation is addition after a mix. Such a condition moves features. It cannot switch one off by itself; only a nonlinearity behind
# it can, where the push is large enough. What can switch is multiplication.
#
# **Your turn.** `self.project` turns the condition `(B, D)` into `2C` numbers: first `C` scales, then `C` shifts. Return `h * (1 + scale) + shift`; say where the missing axes go. The check's cell
# takes a real digit as the only feature, sets the weights so that the condition *is* (scale, shift), and turns both.

# %% exercise="condition.FiLM.forward"
from lesson_lib.condition import FiLM

# %% name="check-film"
FiLM = check("condition.FiLM.forward", FiLM)

real, held_out = digits("train").to(device), digits("test").to(device)
two = held_out.images[held_out.labels == 2][:1].cpu()
film, shifts = FiLM(1, 2), torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0])
rows = {}
with torch.no_grad():
    film.project.weight.copy_(torch.eye(2))
    film.project.bias.zero_()
    for s in (-2.0, -1.0, -0.5, 0.0, 1.0):
        rows[f"scale {s:g}"] = film(two.expand(5, -1, -1, -1), torch.stack([torch.full((5,), s), shifts], dim=1))
titles = [f"shift {s:g}" for s in shifts]
plot.sample_rows(rows, column_titles=titles, alt="A digit under five scales and shifts: inverted at -2, erased at -1")

# %% [markdown] hints="condition.FiLM.forward"
# idea: Two axes of length one broadcast over height and width.
# pseudo-code: split the projection in two along its channels; give both halves two axes more; h times one plus scale; plus shift.
# most common error: forgetting the one. Then a scale of zero erases the feature instead of leaving it alone.

# %% [markdown]
# Scale −1 deletes the feature, whatever the picture holds; −2 turns it inside out. Adding has the row "scale 0" and no other. FiLM's relatives differ in the normalisation in front and in where
# the condition comes from:
#
# | name | normalised over | condition | source |
# |---|---|---|---|
# | AdaIN | each channel, over places | a style | arXiv 1703.06868, eq. 8 |
# | FiLM | nothing of its own | any | arXiv 1709.07871, eq. 2 |
# | AdaGN | groups of channels | time + class | ADM, arXiv 2105.05233, §3.1 |
# | adaLN | each token, over channels | time + class | DiT, arXiv 2212.09748, §3.2 |
#
# "DiT's adaLN conditions on text" is false: DiT's `models.py` embeds the time and an ImageNet label, nothing else. SD3 and FLUX do put a pooled text vector into theirs.

# %% [markdown] exercise_card="condition.CrossAttention.forward"
# ## Can places be told different things? (Exercise 2.7 · `CrossAttention.forward`)
#
# Each place asks a question (query) of `M` tokens, compares it with what each offers (key), and takes a mixture of what they hold (value).
#
# **Your turn.** `condition` is `(B, M, D)`, or `(B, D)` for one token. Scores are `(B, places, M)`, divided by $\sqrt C$. The answer passes through `self.out` and is added to `h`.
#
# The check's cell lets you watch it choose. A place has three features: row, column, ink. Three tokens look for "top", "right" and "ink". Values are one-hot, so what your
# layer adds to channel $m$ *is* the attention to token $m$; white is a weight of 1.

# %% exercise="condition.CrossAttention.forward"
from lesson_lib.condition import CrossAttention

# %% name="check-cross-attention"
CrossAttention = check("condition.CrossAttention.forward", CrossAttention)

line, tokens = torch.linspace(-1, 1, 8), torch.eye(3)
places = torch.stack([line[:, None].expand(8, 8), line.expand(8, 8), two[0, 0], torch.zeros(8, 8)])[None]
layer = CrossAttention(4, 3)
looks_for = torch.tensor([[-1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]])  # small row, large column, ink
with torch.no_grad():
    for part, weight in ((layer.query, torch.eye(4)), (layer.key, 8 * looks_for), (layer.out, torch.eye(4))):
        part.weight.copy_(weight)
    layer.value.weight.copy_(torch.eye(4)[:, :3])
    layer.out.bias.zero_()
    chosen, alone = ((layer(places, given[None]) - places)[0] for given in (tokens, tokens[:1]))
print(f"one token: its weight lies between {alone[0].min():.3f} and {alone[0].max():.3f} at all 64 places")
maps, titles = (
    torch.cat([two[0], 2 * chosen[:3] - 1, 2 * alone[:1] - 1]),
    ["digit", "“top”", "“right”", "“ink”", "“top” alone"],
)
plot.sample_grid(
    maps[:, None], titles=titles, columns=5, alt="A digit; attention to three tokens; one token alone, all white"
)

# %% [markdown] hints="condition.CrossAttention.forward"
# idea: Places become a list of H × W queries; after that it is two matrix products with a softmax between them.
# pseudo-code: one token? give it a token axis; q = query(places), k = key(tokens), v = value(tokens); weights = softmax over tokens of q kᵀ / √C; back to (B, C, H, W); out, add.
# most common error: softmax over the wrong axis. Every *place* spreads a weight of 1 over the tokens, so the last axis of the scores sums to 1.

# %% [markdown]
# With three tokens the places divide them up. With one there is nothing to choose: the softmax of a single score is 1, whatever the score. Every place receives the same vector, and
# the most expensive of the four ways has become `Add`. Places can be told different things, if there is more than one thing to tell.
#
# ## Do your parts equal the public ones?
#
# Your attention against torch's own function, the library's parts against diffusers (the recorded differences where it is not installed). Then the hearing test with your parts,
# and what the four ways cost. `INJECTIONS` is the library's table of them: enter your classes, and every network below is built from them.

# %% name="parity"
revisit("condition.q1")
with torch.no_grad():
    layer, h, tokens = CrossAttention(8, 6), torch.randn(2, 8, 4, 4), torch.randn(2, 3, 6)
    fetched = F.scaled_dot_product_attention(layer.query(h.flatten(2).mT), layer.key(tokens), layer.value(tokens))
    apart = layer(h, tokens) - (h + layer.out(fetched).mT.reshape(h.shape))
print(f"\nyour cross-attention against torch: largest difference {apart.abs().max():.1e}")
print(f"the library against diffusers: {parity('embeddings')}\n")
hearing_test(TimeEmbedder(16), nn.Embedding(11, 16), inject=FiLM(8, 16), combine=guide)

from lesson_lib.condition import INJECTIONS
from lesson_lib.denoiser import ConvDenoiser

INJECTIONS.update({"concat": Concat, "add": Add, "film": FiLM, "cross-attention": CrossAttention})
one = torch.randn(1, 1, 8, 8), torch.tensor([500.0]), torch.tensor([7])
print(f"\n{'way to hear the class':22} {'parameters':>10} {'multiply-adds per picture':>27}")
for way in INJECTIONS:
    net = ConvDenoiser(1, width=32, depth=3, num_classes=10, time_way="add", condition_way=way)
    print(f"{way:22} {sum(p.numel() for p in net.parameters()):>10,} {count_macs(net, *one):>27,}")

# %% [markdown]
# Three times yes. And the ways are not equal: FiLM adds parameters and hardly any arithmetic, because its layer runs once a picture; concat and attention run at every place. Keep it in
# mind for the comparison below.
#
# ## Can it draw the digit you ask for?
#
# Real handwritten digits, 8 × 8; your FiLM, a tenth of the labels dropped. The budget decides how long.

# %% name="train"
torch.manual_seed(0)
model, loss = ConvDenoiser(1, width=48, depth=4, num_classes=10).to(device), denoising_loss(flow, label_dropout=0.1)
work = budget.choose(smoke=30, laptop=1000, gpu=4000)
record = fit(model, (real.images, real.labels), loss, steps=work, **recipe)
print(f"{len(real)} digits, {record.steps} steps, {record.seconds:.0f} s, {record.images_per_second:.0f} pictures/s")
print(f"peak memory {record.peak_memory_mb:.0f} MB on {record.device}; budget: {budget.name}")
print(f"attention layers in this network: {sum(isinstance(part, CrossAttention) for part in model.modules())}")
plot.losses(record, alt="Training loss of the class-conditional flow on real digits")

# %% [markdown]
# A flow's loss is mostly noise that nobody can predict. So ask a stranger: a support-vector classifier, fitted on the real training digits. How often does it read what was asked for?

# %% name="accuracy"
count = budget.choose(smoke=50, laptop=500, gpu=2000)
orders = torch.arange(count, device=device) % 10
begin = torch.randn(count, 1, 8, 8, generator=budget.generator(2), device=device)


def report(name, share, count):
    share, low, high = results.proportion_interval(round(share * count), count)
    print(f"{name:34} {share:6.1%} of {count:4}   95 % interval [{low:.1%}, {high:.1%}]")
    return low, high


for name, net in (("shipped", shipped), ("yours", model)):
    for s in (1.0, 2.0):
        drawn = sample(Guided(net, orders, s), begin).clamp(-1, 1)
        low, high = report(f"{name}, scale {s:g}", class_accuracy(drawn, orders), count)
report("real digits, held out", digit_judge().accuracy, len(held_out))
where = "above" if low > 0.95 else "below" if high < 0.95 else "on both sides of"
print(f"\nAt scale 2, after {record.steps} steps, the interval of your network lies {where} 95 %.")
rows = {f"yours, scale {s:g}": sample(Guided(model, ten, s), noise) for s in (1.0, 2.0)}
rows["shipped, scale 2"] = sample(Guided(shipped, ten, 2.0), noise)
rows["real"] = torch.stack([real.images[real.labels == k][0] for k in range(10)])
plot.sample_rows(
    rows, column_titles=asked_for, alt="Your digits at scales 1 and 2, the shipped network's, and real ones"
)

# %% [markdown]
# The classifier errs on real digits as well (fifth line). A sample that it always reads is not "better than real"; it is more *typical* than handwriting. Turn the dial, two noises a class, and watch
# each pair grow alike.

# %% name="dial-samples"
dial, twenty = [0.0, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0], torch.arange(20, device=device) % 10
fixed = torch.randn(20, 1, 8, 8, generator=budget.generator(3), device=device)
turned = {s: sample(Guided(model, twenty, s), fixed) for s in dial}


def draw(s):
    plot.sample_grid(turned[s], columns=10, alt=f"Twenty digits at guidance scale {s:g}")


widgets.slider(draw, dial, label="guidance scale", alt="Twenty digits from the same noises at each guidance scale")

# %% [markdown]
# ## Can a picture be the condition?
#
# Any vector will do in a label's place. A small vision transformer (lesson 5) reads a digit and sums it up in 32 numbers, its *class token*; a denoiser learns to draw from those. Then both
# meet digits they have not seen. If only the class came through, a sample would be nearer to its own source than to another held-out digit of that class one half of the time.

# %% name="image-condition"
reader = image_reader(0, budget.choose(smoke=5, laptop=400), device)
with torch.no_grad():
    seen, unseen = reader.features(real.images), reader.features(held_out.images)
torch.manual_seed(0)
echo, work = (
    ConvDenoiser(1, width=32, depth=3, feature_size=32).to(device),
    budget.choose(smoke=10, laptop=600, gpu=3000),
)
fit(echo, (real.images, seen), denoising_loss(flow), steps=work, **recipe, progress=False)
begin = torch.randn(3, len(held_out), 1, 8, 8, generator=budget.generator(4), device=device)
drawn = [sample(lambda x, t: echo(x, t, unseen), first).clamp(-1, 1) for first in begin]
first = torch.stack([(held_out.labels == k).nonzero()[0, 0] for k in range(10)])
rows = {"held out": held_out.images[first]} | {f"sample {i + 1}": one[first] for i, one in enumerate(drawn)}
plot.sample_rows(rows, alt="Ten held-out digits above three samples each, drawn from their class tokens alone")
other = torch.arange(len(held_out), device=device)
for k in range(10):
    other[held_out.labels == k] = other[held_out.labels == k].roll(1)
own, stranger = ((drawn[0] - held_out.images[who]).flatten(1).norm(dim=1) for who in (slice(None), other))
report("recognised as their source's class", class_accuracy(drawn[0], held_out.labels), len(held_out))
low, _ = report("nearer to their own source", (own < stranger).float().mean().item(), len(held_out))
print("More than the class came through." if low > 0.5 else "That more than the class came through is not established.")

# %% [markdown]
# So a picture can be the condition. What the features keep, the samples can keep; what the reader threw away comes from the noise.
#
# ## Which way of telling is best?
#
# One knob: the way. Recorded runs, equal steps and data, several seeds, width 32, depth 3; the other condition is always added. First the *time* is told in four ways, then the *class*, then *image
# features*. The loss is measured on 400 held-out digits, the same noise for all.

# %% name="ablation"
for name, what in {"time": "time", "class": "class", "image": "image features"}.items():
    found = results.load(f"injection_{name}")
    label, alt = f"loss on held-out digits, telling the {what}", f"Held-out loss of four ways to tell the {what}"
    plot.intervals(found, "loss", xlabel=label, better="lower", alt=alt)
    print(f"— telling the {what}: {found.configuration['steps']} steps a run, {len(found.seeds)} seeds —")
    for metric in found.metrics:
        print(results.verdict(found, metric, better="higher" if metric == "accuracy" else "lower"))

# %% [markdown]
# How to read this. The verdict pairs the seeds and claims a difference only where its interval leaves out zero; where none is established, the dots may lie apart and you should still not quote an
# order. Each condition here is *one* token, so concat, add and cross-attention can all only shift; what separates them is the mix, the number of parameters and how easily they train. At full size, ADM's
# AdaGN reaches an FID of 13.06 where adding reaches 15.08 (ImageNet 128², ADM Table 3). Which way is best is a question about a size and a data set, and the verdicts above answer it for ours.
#
# ## What does guidance buy, and what does it cost?
#
# The record of the first picture, drawn the other way: how real the samples look against how many of the real digits they reach. Each dot is a scale. Then the changes from scale to scale, paired over
# seeds, and your guess.

# %% name="fidelity-diversity"
recall, precision = (guidance.curve("flow", metric) for metric in ("recall", "precision"))
with plot.figure(alt="Precision against recall, one dot for each guidance scale", height=3.6, width=5.6) as fig:
    axes = fig.subplots()
    axes.plot([x[0] for x in recall], [y[0] for y in precision], "o-", color=plot.COLOUR["u"])
    for s, x, y in zip(scales, recall, precision, strict=True):
        axes.plot(x[1:], [y[0], y[0]], color=plot.COLOUR["u"], linewidth=1)
        axes.plot([x[0], x[0]], y[1:], color=plot.COLOUR["u"], linewidth=1)
        axes.annotate(f"{s:g}", (x[0], y[0]), (6, 6), textcoords="offset points", weight="bold")
    axes.set(xlabel="recall: share of real digits reached", ylabel="precision: share near real digits")
    axes.set_title(f"numbers: guidance scale · crosses: 95 % t-interval, {len(guidance.seeds)} seeds", size=8)


def change(metric, first, second):
    pairs = zip(guidance.values("flow", metric, first), guidance.values("flow", metric, second), strict=True)
    mean, low, high = results.interval([b - a for a, b in pairs])
    word = "rises" if low > 0 else "falls" if high < 0 else "no change is established"
    print(f"{metric:10} from scale {first:g} to {second:g}: {mean:+.3f} [{low:+.3f}, {high:+.3f}]  {word}")
    return word


for metric in guidance.metrics:
    for first, second in ((0.0, 1.0), (1.0, 2.0), (2.0, 5.0)):
        change(metric, first, second)
words = change("accuracy", 1.0, 3.0), change("recall", 1.0, 3.0)
both = {("rises", "rises"): "both rise", ("falls", "falls"): "both fall"}
mixed = {("rises", "falls"): "recognised rises, recall falls", ("falls", "rises"): "recognised falls, recall rises"}
revisit("guidance.q1", (both | mixed).get(words, "at least one does not change"))

# %% [markdown]
# Being recognised and lying near real digits are two things: compare the signs of `accuracy` and `precision` from scale 2 to 5. `fd_pixel` falls when samples get better: find the scale where it stops falling, and compare it with the one you liked best on the dial. DiT reports its best FID, 2.27, at scale 1.5 (Table 2). What guidance buys is agreement
# with the label; it pays in variety, and in a second run of the network at every step.
#
# ## What did they break?
#
# Three students sampled the toy at scale 4 and were surprised. Run the next cell without reading it. From the curves and the samples: what did A, B and C do? Which of
# the three could be seen in the loss?

# %% name="break-it-run" cellView="form"
careless, careless_record = train_toy(label_dropout=0.0)
sound = Guided(toy, thirds, 4.0)
patients = {"sound": sound, "A": Guided(careless, thirds, 4.0)}
patients["B"] = Guided(toy, thirds, 4.0, combine=lambda first, second, s: guide(second, first, s))
patients["C"] = lambda x, t: sound(x, t / 1000)
broken = {name: sample(patient, start) for name, patient in patients.items()}
curves = {"sound, B and C": toy_record, "A": careless_record}
plot.losses(curves, alt="Training losses: one curve for the sound run and for B and C, a lower one for A")
alt = "Sound: three tight clusters; A: wider ones further out; B: a scattered ring; C: smeared clusters"
plot.points(broken, classes=dict.fromkeys(broken, thirds), extent=9.5, alt=alt)
for name, points in broken.items():
    print(f"{name:6} {describe(points, thirds)}, furthest point {points.norm(dim=1).max():.1f}")

# %% [markdown]
# <details><summary>A</summary>
#
# A never dropped a label. The null row kept its random start, so $u_\varnothing$ is arbitrary and the scale multiplies the difference from it. The loss is *lower* than the sound one: guessing is easier
# when you are always told the class. At scale 1 nothing is wrong.
# </details>
# <details><summary>B</summary>
#
# B swapped the two halves: the sampler flees the class it was asked for. Training is untouched.
# </details>
# <details><summary>C</summary>
#
# C trained with $t$ from 0 to 1000 and sampled with $t$ from 0 to 1. All hands stand near noon: the network believes that every picture is almost clean. Shapes fit and nothing raises.
# </details>
#
# Two of three leave no trace in the loss. Sample at two scales before you trust a conditional model. Now in your own words, in the cell below:

# %% name="in-words"
prose("guidance.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | time | class or text | way in | guidance |
# |---|---|---|---|---|
# | DDPM, `diffusion_tf/models/unet.py` | sines first | none | added | none |
# | ADM, `guided_diffusion/unet.py` | as here | label row | AdaGN: scale, shift | by a classifier |
# | DiT, `models.py` | as here | label row, 10 % dropped | adaLN-Zero: shift, scale, gate | $s$, on 3 of 4 channels |
# | Stable Diffusion 1, `ldm/modules/attention.py` | as here | text tokens | time added, text by cross-attention | $s$ |
# | SD3, `mmdit.py` | as here, $1000\,\sigma$ | pooled text and tokens | modulation, joint attention | $s$, on the denoised picture |
#
# **A box about three channels.** DiT's `forward_with_cfg` guides output channels 0 to 2 and leaves the fourth latent channel alone. Its author calls that unintended, inherited from code for RGB
# (facebookresearch/DiT, PR 12 and issue 41). The paper's appendix A: a three-channel scale of $1 + x$ acts about like $1 + \tfrac34 x$ on four. diffusers' `DiTPipeline` guides all four, so the same number asks
# for more there.
#
# ## What have you got now?
#
# * A time becomes positions of clock hands; weights fit one of three tables.
# * One extra row and a tenth of dropped labels give one network two modes; guidance multiplies their difference, sharpening and narrowing at once.
# * Concat is add after a mix; attention to one token is add; FiLM multiplies; attention to several tokens lets places differ.
#
# From now on you can import `lesson_lib.embed`, `condition`, `guidance` and `denoiser`. Three references:
#
# * Ho and Salimans, *Classifier-free diffusion guidance* (arXiv 2207.12598): the method, in the $w$ convention.
# * Dhariwal and Nichol (ADM, arXiv 2105.05233), §3.1 and Table 3: AdaGN against adding.
# * Perez and others, *FiLM* (arXiv 1709.07871): why a condition should multiply; older than DDPM.

# %% name="score"
score("02")
