# %% [markdown] title_card="08"
# # 8 · Where am I?
#
# *Attention reads a set. A table tells each patch its place once, at the door, and ends where the training ended. Rotations tell it in every layer, and only how far apart two patches are. Ask five networks for a picture larger than any they have drawn: who still knows where it is?*

# %% name="setup" lesson="08"
from lesson_lib.setup import start_lesson

budget = start_lesson("08")

# %% name="imports"
import copy
from dataclasses import replace

import torch
import torch.nn.functional as F

from lesson_lib import plot, results, widgets
from lesson_lib.attention import SelfAttention
from lesson_lib.data import COLOURS, SHAPES, shapes
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.exercises import REGISTRY, check, predict, prose, revisit, score
from lesson_lib.experiments.rope import WAYS, OneLayer, draw, reading, task
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.flow import RectifiedFlow
from lesson_lib.official.parity import parity
from lesson_lib.position import KINDS, AxialRope, Ropes, Rotation, grid_coordinates, halves_from_pairs, offset_kernel
from lesson_lib.position import sin_cos_1d, sin_cos_at
from lesson_lib.train import denoising_loss, fit
from lesson_lib.vit import ViT, ViTConfig, at_size

device = budget.device
shipped = {"sin-cos": load_shipped("dit-shapes", device)[0]}
for kind in ("none", "learned, σ 0.5", "axial", "mixed"):
    shipped[kind] = load_shipped(f"dit-shapes-{kind.split(',')[0]}", device)[0]

# %% [markdown]
# ## What happens on a larger canvas?
#
# Five shipped DiTs of one recipe. They differ in how a patch learns its place: not at all, from a learned table, from a table of sines, by two kinds of rotation. All learned from 16 × 16 pixels with one object. Each draws four classes at that size and, in the same scale, at 32 × 32: 64 patches where there were 16.
#
# Below, the plot of this lesson, from shorter trainings with several seeds: how many objects a picture has, and how often exactly one, the right one. By the end you can write each of the five, and say why the right half looks so. First, three guesses.

# %% name="picture-first"
orders = torch.tensor([0, 5, 10, 15], device=device)  # colour * 4 + shape
names = [f"{COLOURS[k // 4]} {SHAPES[k % 4]}" for k in orders.tolist()]


def framed(images):
    """Put pictures on grey canvases of 32 × 32, so that a row of any sizes has one scale."""
    height, width = images.shape[2:]
    left, top = (32 - width) // 2, (32 - height) // 2
    return F.pad(images, (left, 32 - width - left, top, 32 - height - top), value=0.4)


def drawn(way, height, width, net=None):
    kind, stretch = WAYS[way]
    return draw(net or shipped[kind], stretch, height, width, orders, seed=0)


five = ["none", "learned, σ 0.5, resized", "sin-cos, extended", "axial, extended", "mixed, extended"]
rows = {way: torch.cat([framed(drawn(way, side, side)) for side in (16, 32)]) for way in five}
alt = "Four classes at 16 × 16 and at 32 × 32, drawn by five networks that differ in their positions"
plot.sample_rows(rows, column_titles=names * 2, alt=alt)

paint = dict(zip(KINDS, plot.colours(list(KINDS)), strict=True))
dash = {"learned": ":", "learned, resized": ":", "interpolated": "--", "centred": "-.", "NTK": ":"}


def panels(record, metrics, ways, alt):
    """Draw a panel for each metric: means over seeds, and a band for the 95 % t-interval."""
    with plot.figure(alt=alt, height=3.6) as fig:
        for metric, axes in zip(metrics, fig.subplots(1, len(metrics), squeeze=False)[0], strict=True):
            for i, (way, spare) in enumerate(zip(ways, plot.colours(list(ways)), strict=True)):
                kind, _, stretch = way.partition(", ")
                mean, low, high = zip(*record.curve(way, metric), strict=True)
                ink, x = paint.get(kind, spare), record.x["values"]
                line = {"linestyle": dash.get(way, dash.get(stretch, "-")), "marker": plot.MARKERS[i], "markersize": 5}
                axes.plot(x, mean, color=ink, label=way, **line)
                axes.fill_between(x, low, high, color=ink, alpha=0.15, linewidth=0)
            axes.set(xlabel=record.x["name"], ylabel=metrics[metric])
            axes.set_xticks(x, [f"{value:g}" for value in x])
        note = f"mean and 95 % t-interval, {len(record.seeds)} seeds"
        fig.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, title=note)


sizes = results.load("rope_sizes")
what = {"objects": "objects in a picture", "accuracy": "exactly as asked (share)"}
panels(sizes, what, five, "Objects and accuracy over the side: more objects and less accuracy on larger canvases")

# %% name="guesses"
predict("rope.q1")
predict("rope.q2")
predict("rope.q3")

# %% [markdown]
# ## What should a token know of another's place?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $m$, $n$ | `where`, `coordinates` | `(N, A)` | places of a query and of a key; for patches row and column, $A = 2$ |
# | $q$, $k$ | `query`, `key` | `(N, d)` | in one head of $d$ channels |
# | $\theta_j$ | `frequencies` | `(d/2,)` | angle by which pair $j$ of channels turns with one step, in radians |
# | $b$ | `base` | number | $\theta_j = b^{-2j/d}$ |
# | $R(m)$ | `rotate` | | all pairs turned for place $m$ |
#
# The skeleton is one head on a grid of patches that all say the same, so that a score $q \cdot k$ can only tell of places. Two dummies wait: something to *add* to tokens, something to *turn* queries and keys. Six questions:
#
# * **place**: do scores differ at all? **side**: left from right? **axis**: one to the right from one down?
# * **shift**: are they the same after everything has moved on by 100? **wider**: the same for the patch *below* when the picture gets wider?
# * **length**: does a query keep its length?

# %% name="skeleton"
torch.manual_seed(0)
layer = SelfAttention(64, num_heads=1)
parts = {"add": lambda where: torch.zeros(len(where), 64), "turn": lambda x, where: x}


@torch.no_grad()
def scores(where, say=lambda name, h: h):
    """Return all scores of equal patches at these places, (N, N), and how long the queries are."""
    tokens = say("tokens", torch.ones(len(where), 64).sin() * torch.linspace(-2, 2, 64))
    query, key, _ = layer.qkv(say("placed", tokens + parts["add"](where))).chunk(3, dim=-1)
    query, key = (say("turned", parts["turn"](x, where)).float() for x in (query, key))
    return say("scores", query @ key.mT), query.norm(dim=-1)


def ask(name, **say):
    """Put the six questions to the parts as they are now."""
    here, plain = grid_coordinates(4, 4), layer.qkv(torch.ones(64).sin() * torch.linspace(-2, 2, 64))[:64].norm()
    (s, length), (moved, _), (wide, _) = scores(here, **say), scores(here + 100), scores(grid_coordinates(4, 8))
    answers = {
        "place": s.std() > 1e-3, "side": abs(s[5, 6] - s[5, 4]) > 1e-3, "axis": abs(s[5, 6] - s[5, 9]) > 1e-3,
        "shift": torch.allclose(s, moved, atol=1e-3), "wider": abs(s[0, 4] - wide[0, 8]) < 1e-3,
        "length": torch.allclose(length, plain.expand(16), atol=1e-3),
    }  # fmt: skip
    print(f"{name:24}", "   ".join(f"{what} {'yes' if answer else 'no '}" for what, answer in answers.items()))


def say(name, h):
    print(f"{name:8}{tuple(h.shape)}")
    return h


ask("dummies", say=say)

# %% [markdown]
# ## What is wrong with adding?
#
# Nobody is anywhere yet. Lesson 6 added a table. A score then multiplies two sums, $(x + p_m)$ and $(y + p_n)$; of its four terms one alone is about two places, since content and place share every channel. And a learned table ends: it can be cropped, or resized like a picture, not continued.
#
# The table of sines hides the germ of something better. With $c = \cos \Delta\theta$ and $s = \sin \Delta\theta$,
#
# $$ \begin{pmatrix} \cos (m + \Delta)\theta \\ \sin (m + \Delta)\theta \end{pmatrix} = \begin{pmatrix} c & -s \\ s & c \end{pmatrix} \begin{pmatrix} \cos m\theta \\ \sin m\theta \end{pmatrix} $$
#
# A step of $\Delta$ is a *rotation*, the same from every $m$.

# %% name="adding"
parts["add"] = lambda where: sin_cos_at(where, 64)
ask("a table of sines, added")
try:
    at_size(shipped["learned, σ 0.5"], 24, 24, "extend")
except ValueError as problem:
    print("\nthe learned table at 24 × 24:", problem, "\n")
table, frequencies = sin_cos_1d(torch.arange(103), 64), 10_000 ** (-torch.arange(32) / 32)
(sin, cos), s, c = table[:100].chunk(2, dim=1), (3 * frequencies).sin(), (3 * frequencies).cos()
turned = torch.cat([sin * c + cos * s, cos * c - sin * s], dim=1)
print(f"rows 0 to 99 turned by three steps, against rows 3 to 102: difference {(turned - table[3:]).abs().max():.1e}")
parts["add"] = lambda where: torch.zeros(len(where), 64)

# %% [markdown] exercise_card="position.rotate"
# ## Can a score depend on the distance alone? (Exercise 8.1 · `rotate`)
#
# Demand it: $f(q, m) \cdot f(k, n)$ shall depend on $q$, $k$ and $m - n$ only. Read two channels as one complex number. Multiplying by $e^{im\theta}$ turns it, and
#
# $$ \mathrm{Re}\big(q e^{im\theta} \cdot \overline{k e^{in\theta}}\big) = \mathrm{Re}\big(q \bar k \, e^{i(m-n)\theta}\big) $$
#
# The places have gone, their difference is left, and no length has changed. A head holds $d/2$ such pairs, each with its own $\theta_j$. That is RoPE.
#
# **Your turn**, in real numbers: $(a, b) \to (a \cos - b \sin,\; a \sin + b \cos)$. `x` is `(..., N, d)`, `angles` is `(..., N, d/2)`; channels $(0, 1), (2, 3), \dots$ are pairs. The check's cell turns one pair of a query (blue) and of a key (orange) for four pairs of places.

# %% exercise="position.rotate"
from lesson_lib.position import rotate

# %% name="check-rotate"
rotate = check("position.rotate", rotate)
pair = torch.tensor([[1.0, 0.3], [0.4, 0.9]])
with plot.figure(alt="Two arrows; where m - n is 2, the angle between them and the score stay", height=2.8) as fig:
    for axes, (m, n) in zip(fig.subplots(1, 4), [(2, 0), (3, 1), (9, 7), (9, 4)], strict=True):
        turned = rotate(pair, 0.6 * torch.tensor([[m], [n]]))
        for tip, colour in zip(turned.tolist(), ("#0072B2", "#E69F00"), strict=True):
            axes.annotate("", tip, (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 2})
        axes.set(xlim=(-1.2, 1.2), ylim=(-1.2, 1.2), aspect="equal", xticks=[], yticks=[])
        axes.set(title=f"m = {m}, n = {n}", xlabel=f"score {turned[0] @ turned[1]:.3f}")

# %% [markdown] hints="position.rotate"
# idea: two new numbers from each pair, put back where the two old ones were.
# pseudo-code: cosine and sine of the angles; x as (..., d/2, 2), its last axis apart into a and b; stack a cos − b sin and a sin + b cos on a new last axis; flatten the last two.
# most common error: taking the first and the second *half* for a and b. That is the other pairing; every shape fits.

# %% [markdown] exercise_card="position.rope_frequencies"
# ## Which base for a grid of 16? (Exercise 8.2 · `rope_frequencies`)
#
# One frequency will not do: at $\theta = 1$, place 44 looks like place 0. So take many, as a clock takes three hands. The fastest pair turns by one radian a step, the slowest by nearly $1/b$; its **wavelength**, $2\pi / \theta$ steps, should suit the length of the *grid*.
#
# For sequences $s$ times longer than trained, **NTK-aware** scaling raises the base to $b \cdot s^{d/(d-2)}$: the fastest pair stays, the slowest becomes exactly $s$ times slower.
#
# **Your turn.** Return $b^{-2j/d}$ for $j = 0, \dots, d/2 - 1$ as float64; `size` is $d$, `longer` is $s$. Leave a single pair ($d = 2$) alone; raise `ValueError` where `size` is odd. The check's cell draws the wavelengths, and counts which pairs of published models make at least a quarter turn across a grid.

# %% exercise="position.rope_frequencies"
from lesson_lib.position import rope_frequencies

# %% name="check-frequencies"
rope_frequencies = check("position.rope_frequencies", rope_frequencies)
waves = {f"base {b:,}": 2 * torch.pi / rope_frequencies(32, b) for b in (10, 100, 10_000)}
waves["base 100, NTK for ×2"] = 2 * torch.pi / rope_frequencies(32, 100, longer=2)
waves["16 patches"] = torch.full((16,), 16.0)
alt = "Wavelengths of 16 pairs rise from 6 to 54 with base 10, to 471 with 100, to 35,000 with 10,000"
plot.lines(range(16), waves, xlabel="pair j", ylabel="wavelength (patches)", logy=True, alt=alt)
print(f"{'channels of one axis':34}{'base':>7}{'slowest wavelength':>20}   a quarter turn across 16   across 64")
for name, size, base in (("RoPE-ViT axial, a head of 64", 32, 100), ("RoPE-Mixed at its start", 32, 10),
                         ("Z-Image", 48, 256), ("FLUX.2", 32, 2000), ("Lumina-Image 2.0", 32, 10_000),
                         ("FLUX.1, Qwen-Image: row or column", 56, 10_000), ("the same: frame", 16, 10_000)):  # fmt: skip
    theta = rope_frequencies(size, base)
    turns = [f"{int((theta * (side - 1) > torch.pi / 2).sum()):>18} of {len(theta)}" for side in (16, 64)]
    print(f"{name:34}{base:>7,}{2 * torch.pi / theta.min():>20,.0f}{''.join(turns)}")
revisit("rope.q3")
parts["turn"] = lambda x, where: rotate(x, (where @ where.new_tensor([where[:, 1].max() - where[:, 1].min() + 1, 1]))
                                        [:, None] * rope_frequencies(64, 100))  # fmt: skip
ask("turned, in reading order")

# %% [markdown] hints="position.rope_frequencies"
# idea: a geometric series from 1 downwards.
# pseudo-code: refuse an odd size; where longer is not 1 and size is above 2, base times longer to the power size / (size − 2); base to the power −(0, 2, 4, …) / size in float64.
# most common error: exponents $-j/d$ instead of $-2j/d$. There are half as many pairs as channels; the slowest then turns like $b^{-1/2}$.

# %% [markdown] exercise_card="position.shift_error"
# ## Is it true? (Exercise 8.3 · `shift_error`)
#
# On a grid 16 wide, base 100 uses half of the pairs for places, base 10 all of them. With 10,000, the language models' number, most stand nearly still and carry content only. FLUX.1 takes it all the same, so this is no law; what it costs here is measured below.
#
# Everything is relative now, though "wider" fails: later. First the claim itself. Do not believe the algebra; build an instrument.
#
# **Your turn.** `turn(x, angles)` is some function like `rotate`. Token $n$ of `query` and `key`, both `(N, d)`, stands at place $n$. Compute all scores `(N, N)`, again with every place `shift` further on, and return the largest absolute difference as a float.

# %% exercise="position.shift_error"
from lesson_lib.position import shift_error

# %% name="check-shift"
shift_error = check("position.shift_error", shift_error)
query, key = torch.randn(2, 20, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
turns = {
    "rotate": rotate,
    "rotate, half of the channels": lambda x, a: torch.cat([rotate(x[:, :32], a[:, :16]), x[:, 32:]], dim=1),
    "mirrored: (a cos + b sin, a sin − b cos)": lambda x, a: rotate(x * x.new_tensor([1, -1]).repeat(32), a),
    "turned, and a little longer with each place": lambda x, a: rotate(x, a) * (1 + 0.01 * a[:, :1]),
    "added": lambda x, a: x + torch.cat([a.sin(), a.cos()], dim=1),
}
for name, turn in turns.items():
    print(f"{name:45} {shift_error(turn, query, key, rope_frequencies(64), 100):.1e}")

# %% [markdown] hints="position.shift_error"
# idea: a function of the start, called twice.
# pseudo-code: places = start + 0, 1, …, N − 1; angles = places as a column times frequencies; scores = turn(query, angles) @ turn(key, angles)ᵀ; the largest |scores(shift) − scores(0)|.
# most common error: moving the queries only. Then the distance does change, and every encoding fails.

# %% [markdown] exercise_card="position.pairs_from_halves"
# ## Which channels are a pair? (Exercise 8.4 · `pairs_from_halves`)
#
# Turning half of the channels is fine, and so is a mirror: what counts is that $R(m)^\top R(n)$ depends on $n - m$. Nor does it matter which two channels are a pair, and two customs exist:
#
# | pairing | pairs | in the code of |
# |---|---|---|
# | interleaved ("GPT-J") | $(0, 1), (2, 3), \dots$ | RoFormer, FLUX, Qwen-Image, Z-Image, Lumina-Image 2.0, RoPE-ViT, Hunyuan-DiT |
# | half-split ("NeoX") | $(0, d/2), (1, d/2 + 1), \dots$ | transformers' Llama, CogView4, OmniGen, Cosmos |
#
# It matters to *weights*: query and key layers have learned where their pairs stand.
#
# **Your turn.** Reorder the outputs of a half-split query or key layer for interleaved code: `weight` is `(num_heads · d, D)`, or a bias without $D$. Head by head, output $j$ goes to $2j$ and output $j + d/2$ to $2j + 1$. The check's cell stores the shipped axial network as half-split code would, and loads it back.

# %% exercise="position.pairs_from_halves"
from lesson_lib.position import pairs_from_halves

# %% name="check-pairs"
pairs_from_halves = check("position.pairs_from_halves", pairs_from_halves)
axial, heads = shipped["axial"], shipped["axial"].config.num_heads


def reordered(net, order):
    """Copy a network with the outputs of its query and key layers in another order; the values stay."""
    other = copy.deepcopy(net)
    for block in other.blocks:
        for weight in block.attn.qkv.parameters():
            query, key, value = weight.data.chunk(3)
            weight.data = torch.cat([order(query, heads), order(key, heads), value])
    return other


theirs = reordered(axial, halves_from_pairs)
converted = reordered(theirs, pairs_from_halves)
turn = axial.ropes(device)[0]
half = Rotation(*(halves_from_pairs(part.T, 1).T for part in (turn.cos, turn.sin)), "half-split")
tokens = torch.randn(1, 16, 128, device=device)
with torch.no_grad():
    right = axial.blocks[0].attn.map(tokens, turn)
    for name, net, how in (("half-split weights, half-split code", theirs, half),
                           ("half-split weights, interleaved code", theirs, turn), ("converted", converted, turn)):  # fmt: skip
        print(f"{name:37} attention differs by up to {(net.blocks[0].attn.map(tokens, how) - right).abs().max():.1e}")
rows = {
    name: drawn("axial, extended", 16, 16, net) for name, net in (("loaded as it is", theirs), ("converted", converted))
}
plot.sample_rows(
    rows, column_titles=names, alt="Broken objects from unconverted weights; sound ones from converted weights"
)

# %% [markdown] hints="position.pairs_from_halves"
# idea: cut each head's outputs into two halves and deal them out in turn.
# pseudo-code: weight as (heads, 2, d/2, …); exchange the axes of 2 and d/2; flatten back.
# most common error: reordering over all heads at once. Heads then trade outputs, and every shape is right.

# %% [markdown] exercise_card="position.axial_angles"
# ## How do you go from one dimension to two? (Exercise 8.5 · `axial_angles`)
#
# No shape complained; only the pictures did.
#
# Now "wider". In reading order the patch below is one *row length* on, which changes with the picture. So give each coordinate its own channels: with **axial** RoPE half of a head turns with the row, half with the column. FLUX.1 has three axes, 16 + 56 + 56 channels, the first for a frame. (DiT is often said to have axial RoPE. It has none: a fixed table, added once.)
#
# **Your turn.** `coordinates` is `(N, A)`, `axes` the channels of each of the $A$ axes. Return the angles `(N, d/2)` in float64: `rope_frequencies(axes[0], base, longer)` times coordinate 0, then the next. Raise `ValueError` where the numbers of axes differ. The check's cell asks again, and draws the **offset kernel**: how well a query and an *equal* key agree at each offset, the mean of all cosines.

# %% exercise="position.axial_angles"
from lesson_lib.position import axial_angles

# %% name="check-axial"
axial_angles = check("position.axial_angles", axial_angles)
parts["turn"] = lambda x, where: rotate(x, axial_angles(where, (32, 32), 100))
ask("axial")
square = grid_coordinates(17, 17)


def kernels(found, alt):
    """Draw offset kernels, each (17, 17), on one scale."""
    with plot.figure(alt=alt, height=2.5) as fig:
        row = fig.subplots(1, len(found), squeeze=False)[0]
        for axes, (name, kernel) in zip(row, found.items(), strict=True):
            image = axes.imshow(kernel.detach().cpu(), vmin=-0.4, vmax=1, extent=(-8.5, 8.5, 8.5, -8.5))
            axes.set(title=name, xticks=[-8, 0, 8], yticks=[-8, 0, 8], xlabel="columns apart")
            axes.grid(False)
        row[0].set_ylabel("rows apart")
        fig.colorbar(image, ax=row, shrink=0.8)


found = {f"base {b:,}": offset_kernel(Rotation.of(axial_angles(square, (32, 32), b)), 8) for b in (10, 100, 10_000)}
kernels(found, alt="Crosses: bright along the row and the column of the middle; the larger the base, the wider")
k = found["base 100"]
print(f"base 100: 8 down {k[16, 8]:.2f}, 8 right {k[8, 16]:.2f}, both {k[16, 16]:.2f}; ", end="")
print(f"the sum rule says {k[16, 8] + k[8, 16] - 1:.2f}")

# %% [markdown] hints="position.axial_angles"
# idea: 1-D RoPE once for each coordinate, side by side.
# pseudo-code: refuse other lengths; for each coordinate with its size: the coordinate as a column times rope_frequencies(size, base, longer); concatenate on the last axis.
# most common error: one list of frequencies for the whole head, cut in two. Rows then get the fast pairs, columns the slow ones.

# %% [markdown] exercise_card="position.mixed_angles"
# ## What do both coordinates make together? (Exercise 8.6 · `mixed_angles`)
#
# A cross, not a spot: the kernel is $f(\Delta_\text{row}) + g(\Delta_\text{column})$. **RoPE-Mixed** gives every pair a *direction*. Its one angle is the sum of both coordinates' parts,
#
# $$ \text{angle} = \omega^\text{row}_{hj}\, m_\text{row} + \omega^\text{col}_{hj}\, m_\text{column} $$
#
# with two learned numbers $\omega$ for every pair, head and layer, $2 \cdot d/2 \cdot h$ a layer. (It is often said to interleave x and y. It adds them; axial has a block of channels for each.) Whatever $\omega$ is, differences alone count. Each head begins as axial with base 10, turned by a random angle.
#
# **Your turn.** `coordinates` is `(N, A)`, `frequencies` `(A, h, d/2)`. Return `(h, N, d/2)`. The check's cell draws the kernels that the shipped mixed network has learned, then counts: one argument, `positions="mixed"`, at RoPE-ViT's sizes.

# %% exercise="position.mixed_angles"
from lesson_lib.position import mixed_angles

# %% name="check-mixed"
mixed_angles = check("position.mixed_angles", mixed_angles)
torch.manual_seed(0)
frequencies = torch.randn(2, 1, 32)
parts["turn"] = lambda x, where: rotate(x, mixed_angles(where, frequencies)[0])
ask("mixed")
found = {}
for block in (0, 3):
    rope = shipped["mixed"].ropes[block].cpu()
    learned = offset_kernel(Rotation.of(mixed_angles(square, rope.freqs)), 8)
    found |= {f"block {block + 1}, head {head + 1}": learned[head] for head in (0, 1)}
    rope.to(device)
kernels(found, alt="Learned kernels of four heads: tilted stripes and spots instead of crosses")
for name in ("small", "base", "large"):
    with torch.device("meta"):
        net = ViT(replace(getattr(ViTConfig, name)(), positions="mixed"))
    print(f"ViT-{name:6} {sum(rope.freqs.numel() for rope in net.ropes):>7,} numbers for positions")

# %% [markdown] hints="position.mixed_angles"
# idea: a matrix product over the axis of coordinates, once for each head.
# pseudo-code: einsum "n a, a h p -> h n p".
# most common error: keeping the two products apart. That is axial, with learned frequencies.

# %% [markdown]
# ## Why mixed?
#
# First a dial, kind and base: how agreement falls off along a row, and the kernel. (It falls as a trend, not at every step; RoFormer's §3.4.3 gives an upper bound.)
#
# "Axial cannot look diagonally", it is said. Where content does not matter, an axial score is $f(\Delta_\text{row}) + g(\Delta_\text{column})$, so the softmax is a *product*, one factor for rows and one for columns. A product can single out one diagonal neighbour: this row, that column. It cannot single out two opposite ones, $(1, 1)$ and
# $(-1, -1)$, without $(1, -1)$ and $(-1, 1)$. So it cannot look *along* a diagonal.
#
# One layer with one head on 7 × 7, trained now: name the token two down and two right, or the mean of your whole diagonal. Whom does the middle token ask? The record has more seeds, and four heads.


# %% name="dial-kernel"
def turned_by(option):
    kind, base = option.split(", base ")
    base = float(base.replace(",", ""))
    if kind == "axial":
        return axial_angles(square, (32, 32), base)
    direction = torch.tensor([0.6])  # of one head, in radians
    lengths = rope_frequencies(32, base).float()
    ways = torch.stack([direction.cos(), -direction.sin()]), torch.stack([direction.sin(), direction.cos()])
    return mixed_angles(square, torch.cat([way[:, :, None] * lengths for way in ways], dim=-1))[0]


def show_kernel(option):
    kernel = offset_kernel(Rotation.of(turned_by(option)), 8)
    with plot.figure(alt=f"Agreement along a row, and the kernel: {option}", height=1.9) as fig:
        left, right = fig.subplots(1, 2)
        left.plot(range(9), kernel[8, 8:], "o-", markersize=3)
        left.set(ylim=(-0.5, 1.05), xlabel="columns apart", ylabel="agreement")
        right.imshow(kernel, vmin=-0.4, vmax=1)
        right.set(xticks=[], yticks=[])
        right.grid(False)


options = [f"{kind}, base {b:,}" for kind in ("axial", "mixed") for b in (10, 100, 10_000)]
widgets.menu(options, show_kernel, label="positions", alt="Offset kernels of axial and mixed rotations for three bases")

# %% name="diagonal"
looks, short = {}, budget.choose(smoke=8, laptop=300)
numbers = torch.randn(2000, 49, 4, generator=torch.Generator().manual_seed(5))
for kind, asked in (("axial", "offset"), ("axial", "diagonal"), ("mixed", "diagonal")):
    torch.manual_seed(0)
    net, wanted = OneLayer(kind, 1), task(asked)
    heard = wanted.sum(dim=1) > 0

    def loss(net, batch, generator, heard=heard):
        return F.mse_loss(net(batch[0])[:, heard], batch[1][:, heard])

    fit(net, (numbers, wanted @ numbers), loss, steps=short, lr=1e-2, warmup=20, cooldown=short // 2, progress=False)
    with torch.no_grad():
        asks = net.attn.map(net.before(numbers[:200]), net.rope(grid_coordinates(7, 7)))
    looks[f"{kind}: {asked}"] = asks.mean(dim=0)[0, 24].view(7, 7)
alt = (
    "Attention of the middle token: axial finds one diagonal neighbour, but not the diagonal; mixed finds the diagonal"
)
with plot.figure(alt=alt, height=2.4) as fig:
    for axes, (name, look) in zip(fig.subplots(1, 3), looks.items(), strict=True):
        axes.imshow(look, vmin=0)
        axes.set(title=f"{name} (most: {look.max():.2f})", xticks=[], yticks=[])
        axes.grid(False)
diagonal = results.load("rope_diagonal")
for metric in ("diagonal", "offset"):
    print(results.summary(diagonal, metric), "\n")
print(results.verdict(diagonal, "diagonal", better="higher"))

# %% [markdown] exercise_card="position.centred_grid"
# ## Where do you begin to count? (Exercise 8.7 · `centred_grid`)
#
# That is the exact case for mixed: in one layer, one head does what four axial heads do not. (A deep network has other ways.)
#
# FLUX.1 counts from the corner, Qwen-Image from the middle, so that a larger picture grows to all sides. If differences alone count, can that matter?
#
# **Your turn.** Return `(height · width, 2)`, row and column in reading order, as float32: rows from $-\lceil H/2 \rceil$ to $\lfloor H/2 \rfloor - 1$, columns likewise. A 3 × 4 grid has rows −2 to 0 and columns −2 to 1. The check's cell compares the two at 32 × 32 pixels, then draws where three rules put 4, 6 and 8 patches.

# %% exercise="position.centred_grid"
from lesson_lib.position import centred_grid

# %% name="check-centred"
centred_grid = check("position.centred_grid", centred_grid)
wide, seen = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(2)).to(device), {}
told = torch.full((2,), 500.0, device=device), orders[:2]
for name, net, given in (
    ("DiT, axial: patches only", shipped["axial"], told),
    ("DiT, mixed: patches only", shipped["mixed"], told),
    ("ViT, axial, mean of the patches", "mean", ()),
    ("ViT, axial, class token at the origin", "cls", ()),
    ("DiT, sin-cos: a table", shipped["sin-cos"], told),
):
    torch.manual_seed(0)
    if isinstance(net, str):
        net = ViT(ViTConfig(16, 4, 3, 10, 64, 4, 4, positions="axial", pool=net)).to(device)
        torch.nn.init.normal_(net.patch_embed.proj.weight)
    with torch.no_grad():
        corner, middle = (at_size(net, 32, 32, stretch)(wide, *given) for stretch in ("extend", "centre"))
    print(f"{name:39} answers differ by {(corner - middle).norm() / corner.norm():.1e} of their size")
rules = {
    "from the corner": lambda side: grid_coordinates(side, 1)[:, 0],
    "from the middle": lambda side: centred_grid(side, 1)[:, 0],
    "interpolated": lambda side: grid_coordinates(side, side, 4, "interpolate")[::side, 0],
}
with plot.figure(
    alt="Places of 4, 6 and 8 patches: counted on, around zero, squeezed into one range", height=2.0
) as fig:
    for axes, (name, rule) in zip(fig.subplots(1, 3, sharey=True), rules.items(), strict=True):
        for side, colour in zip((4, 6, 8), plot.colours(["4", "6", "8"]), strict=True):
            axes.plot(rule(side), [side] * side, "s", markersize=5, color=colour)
        axes.set(title=name, xlabel="coordinate", yticks=[4, 6, 8], ylim=(3, 9), xlim=(-4.5, 7.5))
    fig.axes[0].set_ylabel("patches")

# %% [markdown] hints="position.centred_grid"
# idea: count as always, then take off half a side, rounded up.
# pseudo-code: rows = arange(height) − (height − height // 2); columns likewise; every row with every column, rows slowest.
# most common error: taking off `height // 2`. For even sides nothing is wrong; for odd ones the zero moves by one.

# %% [markdown] exercise_card="position.diagonal_text"
# ## Where do words stand? (Exercise 8.8 · `diagonal_text`)
#
# Among patches that are all turned, the origin means nothing. It matters once something stands at a *fixed* place: a class token, a table, words.
#
# Text-to-image models put words and patches into one sentence (lesson 10). Where do words go?
#
# * **Origin** (FLUX.1): all on the place of the upper left patch. Their order must come from the text encoder.
# * **Continued** (Lumina-Image 2.0): a queue on an axis of their own, the picture behind the last.
# * **Strip** (Seedream 3.0, as others describe it): beside the middle row, which becomes special.
# * **Diagonal** (Qwen-Image): beyond the picture, the same number on every axis. Among words that is 1-D RoPE, and no row is special. (Not in cross-attention, as is often said: there is none, but one joint self-attention.)
#
# **Your turn.** Return `(words, axes)` float32: word $n$ has $\max(\lfloor H/2 \rfloor, \lfloor W/2 \rfloor) + n$ on every axis, beyond the last patch of a centred grid. The check's cell draws rows and columns of the four; in the second the frame too, to the lower left.

# %% exercise="position.diagonal_text"
from lesson_lib.position import diagonal_text

# %% name="check-diagonal"
diagonal_text = check("position.diagonal_text", diagonal_text)
middle, flat = F.pad(centred_grid(4, 6), (1, 0)), F.pad(grid_coordinates(4, 6), (1, 0))
queue = torch.arange(5.0)[:, None] * torch.tensor([1.0, 0, 0])
strip = torch.stack([torch.zeros(5), torch.zeros(5), 3 + torch.arange(5.0)], dim=1)
placements = {"origin (FLUX.1)": (torch.zeros(5, 3), flat), "continued (Lumina)": (queue, flat + queue[1] * 5),
              "strip (second-hand)": (strip, middle), "diagonal (Qwen)": (diagonal_text(5, 4, 6), middle)}  # fmt: skip
with plot.figure(alt="Words and patches in four placements", height=2.5) as fig:
    for axes, (name, (words, patches)) in zip(fig.subplots(1, 4), placements.items(), strict=True):
        for (frame, row, column), mark, colour in ((patches.T, "s", "#56B4E9"), (words.T, "o", "#D55E00")):
            aside = 0.5 * frame if name.startswith("continued") else 0
            axes.plot(column - aside, row + aside, mark, markersize=4.5, color=colour)
        axes.set(aspect="equal", xlim=(-4, 8.5), ylim=(8, -3), xticks=[0], yticks=[0], title=name)
for name, (words, patches) in placements.items():
    shared = sum((patches == word).all(dim=1).any().item() for word in words.unique(dim=0))
    print(f"{name:23} {len(words.unique(dim=0))} places for 5 words, of which {shared} belong to a patch")

# %% [markdown] hints="position.diagonal_text"
# idea: one number a word, repeated on all axes.
# pseudo-code: first = max(height // 2, width // 2); first + arange(words) as floats; a column, expanded to (words, axes).
# most common error: starting at max(height, width), as for a grid that counts from its corner. A centred one ends at half of that.

# %% [markdown]
# ## Does it compute what the public code computes?
#
# The library keeps cosines and sines (`Rotation`) and hands them to every block; a ViT or a DiT takes each kind by one argument. Compared: embedders and rotations of FLUX.1 and Qwen-Image in diffusers, and the half-split rotation of transformers' Llama. Then a small DiT twice, one seed, losses only; and the record, five kinds and several seeds.

# %% name="assemble"
print(parity("rope"), "\n")
print(parity("rope-llama"), "\n")
for kind in KINDS:
    with torch.device("meta"):
        net = DiT(replace(DiTConfig.shapes16(), positions=kind))
    print(f"positions={kind!r:10} {sum(w.numel() for w in net.parameters() if w.requires_grad):,} trained weights")

# %% name="train"
data, flow = shapes(budget.choose(smoke=400, laptop=8000), size=16, seed=3, device=device), RectifiedFlow()


def learn(kind):
    torch.manual_seed(0)
    net = DiT(replace(DiTConfig.shapes16(), hidden_size=64, positions=kind)).to(device)
    told, work = denoising_loss(flow, label_dropout=0.1), budget.choose(smoke=12, laptop=350, gpu=3000)
    return fit(net, (data.images, data.labels), told, steps=work, lr=2e-3, warmup=20, ema=0.99, progress=False)


losses = {kind: learn(kind) for kind in ("axial", "sin-cos")}
for kind, run in losses.items():
    print(f"{kind}: {run.steps} steps, {run.seconds:.0f} s, peak memory {run.peak_memory_mb:.0f} MB")
print(f"on {device}; budget: {budget.name}")
plot.losses(losses, alt="Training losses of a small DiT with axial rotations and with a table of sines")

# %% name="ablation-positions"
positions = results.load("rope_positions")
what_now = {"fd_judge": "FD-judge (lower is better)", "accuracy": "share as asked"}
panels(positions, what_now, list(positions.variants), "FD-judge and accuracy over the training for kinds of positions")
print(f"{positions.configuration['steps']} steps of {positions.configuration['batch_size']}; guidance 1")
kinds = ("none", "learned, σ 0.5", "sin-cos", "axial", "mixed")
for metric, better in (("accuracy", "higher"), ("fd_judge", "lower")):
    print(results.verdict(positions, metric, better=better, at=1.0, variants=kinds))
print(results.verdict(positions, "accuracy", better="higher", at=1.0, variants=("learned", "learned, σ 0.5")))
revisit("rope.q1")

# %% [markdown]
# Look at the two learned tables. Started as ViT's, with a deviation of 0.02, a table is a whisper beside the patches' tokens, hardly heard after these steps; started with 0.5 the same table is heard. What is *added* must have the right volume. A rotation has no volume.
#
# ## How do you rescale to another size?
#
# | way | what a patch is told | by |
# |---|---|---|
# | extend | the next numbers | FLUX.1, RoPE-ViT |
# | centre | the same, around the middle | Qwen-Image; SD3 crops a large table |
# | interpolate | numbers squeezed into the trained range | Hunyuan-DiT: $\frac S2 + \frac Sh (i - \frac h2)$, $h$ the longer side; CogView4 |
# | NTK | the next numbers, slow pairs slowed | language models |
# | Scaling RoPE | similar numbers near the middle at every size (no formula in the text) | Seedream 2.0, §3.1 |
#
# Below: the networks of the last record on larger canvases and in another shape; then other bases, counted on. "One" is the share of pictures with one object, "right" the share of the *objects* that are the one asked for.

# %% name="ablation-sizes"
panels(sizes, what, [way for way in WAYS if way.split(",")[0] in ("sin-cos", "axial", "mixed")],
       "Objects and accuracy over the side for ways to rescale")  # fmt: skip
shaped = results.load("rope_shapes")
print(f"{'':23}{'32 × 32: objects':>17}{'one':>8}{'right':>8}   {'16 × 32: objects':>17}{'one':>8}{'right':>8}")
for way in WAYS:
    found = [[results.interval(record.values(way, metric, at=2.0))[0] for metric in ("objects", "one", "right")]
             for record in (sizes, shaped)]  # fmt: skip
    print(f"{way:23}{'   '.join(f'{many:>17.1f}{one:>8.0%}{right:>8.0%}' for many, one, right in found)}")
print()
rotary = ("sin-cos, extended", "axial, extended", "mixed, extended")
for record, at in ((sizes, 1.5), (shaped, 2.0)):
    print(results.verdict(record, "accuracy", better="higher", at=at, variants=rotary))
for metric, better, at, pair in (
    ("right", "higher", 2.0, ("axial, extended", "axial, interpolated")),
    ("objects", "lower", 2.0, ("axial, extended", "axial, interpolated")),
    ("objects", "lower", 2.0, ("sin-cos, centred", "sin-cos, extended")),
    ("right", "higher", 1.5, ("axial, extended", "mixed, extended")),
):
    print(results.verdict(sizes, metric, better=better, at=at, variants=pair))
revisit("rope.q2")

bases = results.load("rope_base")
panels(bases, what, list(bases.variants), "Objects and accuracy over the side for three bases")
for metric, at in (("accuracy", 1.0), ("right", 2.0)):
    print(results.verdict(bases, metric, better="higher", at=at))

# %% [markdown]
# One reading: these networks learned what stands how many patches apart. Numbers that go on keep the distances: objects keep their size, and there is room for more. Squeezed numbers shrink the distances, while a patch still holds 4 × 4 pixels, and objects come apart. A table of sines has an origin, so it also matters to which side it grows.
#
# ## And when the picture itself is scaled?
#
# These ViTs learn real digits at 16 × 16, then read *the same digit in more pixels*. Now the content grows with the grid.

# %% name="ablation-vit"
reads = results.load("vit_resolution")
panels(reads, {"accuracy": "share of digits read"}, list(reads.variants), "Digits read over the side of the picture")
for at in (12, 24, 32):
    pair = ("axial, extended", "axial, interpolated")
    print(results.verdict(reads, "accuracy", better="higher", at=at, variants=pair))

# %% [markdown]
# So ask what grows. Where the content grows with the grid, squeeze the numbers; where the grid shows more of the same, count on. That is as far as these two tasks go. The published test, ImageNet trained at 224 and read at 384 (accuracy in %, RoPE-ViT's README; rotations counted on):
#
# | | added table | axial | mixed |
# |---|---|---|---|
# | ViT-S | 80.4 → 79.4 | 80.9 → 80.0 | 80.9 → 81.8 |
# | ViT-B | 83.4 → 82.8 | 83.6 → 83.9 | 83.8 → 84.4 |
# | ViT-L | 84.6 → 84.2 | 84.7 → 85.1 | 84.8 → 85.6 |
#
# At the trained size half a point at most; at the larger one the table loses and mixed gains.
#
# Now choose yourself: the shipped networks at 16², 24², 32² and 16 × 32.

# %% name="dial-size"
canvas = {"16 × 16": (16, 16), "24 × 24": (24, 24), "32 × 32": (32, 32), "wide": (16, 32)}


def at_all_sizes(way):
    rows = {name: framed(drawn(way, *size)) for name, size in canvas.items()}
    plot.sample_rows(rows, alt=f"Four classes at four sizes: {way}")


ways = [*five[1:], "axial, interpolated", "axial, NTK"]
widgets.menu(ways, at_all_sizes, label="positions", alt="Samples at four sizes for several ways to rescale")

# %% [markdown] exercise_card="position.values_bug"
# ## What is turned too much? (Exercise 8.9 · find the bug)
#
# Two students drew with the shipped axial weights. The first wrote an attention. It looks right, until all places are 20 further on (right half), which should change nothing. The second wrote coordinates: right on squares, wrong on wide pictures. Run the next cell without reading it.
#
# **Your turn.** Below it stands the first student's `SelfAttention`. Mend `forward`.

# %% name="symptom" cellView="form"


def written_by_student(key):
    bug = REGISTRY[key]
    return bug.adopt(bug.mistake(bug.broken).function)


def standing(place, attention=SelfAttention):
    """Copy the shipped axial network, its patches standing where place(height, width) says."""

    class Elsewhere(Ropes):
        def forward(self, device="cpu"):
            return [AxialRope((16, 16), 100.0)(place(*self.where[:2]).to(device))] * self.depth

    net = copy.deepcopy(axial)
    net.ropes.__class__ = Elsewhere
    for block in net.blocks:
        block.attn.__class__ = attention
    return net


def two_halves(columns, alt):
    rows = {name: torch.cat([framed(drawn("axial, extended", 16, width, net)) for net, width in pair])
            for name, pair in columns.items()}  # fmt: skip
    plot.sample_rows(rows, column_titles=names * 2, alt=alt)


def further(height, width):
    return grid_coordinates(height, width) + 20


student, coordinates = (written_by_student(key) for key in ("position.values_bug", "position.grid_bug"))
second = standing(lambda height, width: coordinates(0, height, width)[:, 1:])
pairs = {"the library": [(axial, 16), (standing(further), 16)]}
pairs["the first student"] = [(standing(grid_coordinates, student), 16), (standing(further, student), 16)]
two_halves(pairs, "From place 0 and from place 20: the library draws the same twice, the student only the first well")
pairs = {"the library": [(axial, 16), (axial, 32)], "the second student": [(second, 16), (second, 32)]}
two_halves(pairs, "Square and wide pictures: the second student's wide ones are scrambled")

# %% exercise="position.values_bug"
from lesson_lib.attention import SelfAttention

# %% name="check-values-bug"
SelfAttention = check("position.values_bug", SelfAttention)

# %% [markdown] hints="position.values_bug"
# idea: which two of the three meet in the score?
# pseudo-code: rotate query and key; leave the value as it is.
# most common error: testing where places begin at 0, on a small grid. There the values hardly turn, and a network *trained* this way draws well everywhere it was trained.

# %% [markdown] exercise_card="position.grid_bug"
# ## What does no square picture show? (Exercise 8.10 · find the bug)
#
# Whoever turns values hands on content turned by the place it came from, and nothing turns it back.
#
# The second student's squares are right. Wide pictures are too, while the words are at the origin.
#
# **Your turn.** Mend `joint_coordinates`: `(frame, row, column)` of all words, then of all patches, for three placements of 8.8.

# %% exercise="position.grid_bug"
from lesson_lib.position import joint_coordinates

# %% name="check-grid-bug"
joint_coordinates = check("position.grid_bug", joint_coordinates)

# %% [markdown] hints="position.grid_bug"
# idea: print the places of a 2 × 3 grid, and find the patch to the right of the first.
# pseudo-code: height goes with rows and width with columns, in every call.
# most common error: testing on 4 × 4. Give a test sides that differ.

# %% [markdown]
# ## What did they break?
#
# Two more students with the same weights, at 16 × 16 and at 32 × 32. What did A do, and what B?

# %% name="break-it-run" cellView="form"


class Forgetful(SelfAttention):
    def forward(self, x, rotate=None):
        turns = iter([rotate, lambda key: key])
        return super().forward(x, lambda h: next(turns)(h))


a, b = standing(grid_coordinates, Forgetful), standing(lambda height, width: grid_coordinates(height, width) % 4)
rows = {name: torch.cat([framed(drawn("axial, extended", side, side, net)) for side in (16, 32)])
        for name, net in {"sound": axial, "A": a, "B": b}.items()}  # fmt: skip
plot.sample_rows(rows, column_titles=names * 2, alt="Sound pictures of two sizes, and those of A and B")

# %% [markdown]
# <details><summary>A</summary>
#
# A turned the queries and forgot the keys. Scores then depend on where the query is, and no longer on where the key is.
# </details>
# <details><summary>B</summary>
#
# B went on using the four coordinates of the training, 0 to 3 and again 0 to 3. At 32 × 32 pixels, patches four apart then stand in one place, and draw the same.
# </details>
#
# In your own words:

# %% name="in-words"
prose("rope.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | axes (channels), base | a patch at | a word at |
# |---|---|---|---|
# | facebookresearch/DiT, `models.py`; Stability-AI/sd3.5, `mmditx.py` | table, added once; 10,000 | row, column; SD3 crops the middle | – |
# | naver-ai/rope-vit, `models/vit_rope.py` | axial (column first), 100; mixed, 10 | row, column | class token unturned |
# | black-forest-labs/flux, `src/flux/sampling.py`, `math.py` | 16 + 56 + 56; 10,000 | (0, row, column) | (0, 0, 0) |
# | black-forest-labs/flux2, `src/flux2/sampling.py` | 4 × 32; 2,000 | (0, row, column, 0) | (0, 0, 0, n) |
# | Alpha-VLLM/Lumina-Image-2.0, `models/model.py` | 3 × 32; 10,000 | (words, row, column) | (n, 0, 0) |
# | Tongyi-MAI/Z-Image, `src/zimage/transformer.py` | 32 + 48 + 48; 256 | (words + 1, row, column) | (1 + n, 0, 0) |
# | huggingface/diffusers, `transformer_qwenimage.py` | 16 + 56 + 56; 10,000 | (frame, row, column), centred | (n, n, n) |
# | the same, `transformer_cogview4.py` | half each, half-split; 10,000 | spread over 256 × 256 | – |
# | Sana | none | its 3 × 3 convolutions know the border | – |
#
# **A trap.** A checkpoint does not say with which pairing, base, axis or origin it was trained, and every mistake loads.
#
# ## What have you got now?
#
# * A rotation of queries and keys makes scores depend on differences of places. Values stay.
# * In two dimensions: channels for each axis (axial), or a direction for each pair (mixed).
# * Origins matter only beside something that stands still: a class token, a table, words.
# * How to rescale follows from what grows: the picture's content, or what is seen of it.
#
# So a patch need not know where it *is*, only where the others are. In lesson 9 the words come in. From now on you can import all of `lesson_lib.position`. Three references:
#
# * Su and others, *RoFormer* (arXiv 2104.09864), §3: the demand, the solution, the decay.
# * Heo and others, *Rotary position embedding for vision transformer* (arXiv 2403.13298): axial and mixed.
# * *Qwen-Image technical report* (arXiv 2508.02324), §2.4: centring, and words on the diagonal.

# %% name="score"
score("08")
