# %% [markdown] title_card="09"
# # 9 · One vector or many tokens?
#
# *A class is a number. A caption is a sentence, and a sentence can ask for two things at once: a red circle above a blue square. Should all patches hear its summary, or should each patch ask for its own words? Count how often the right colour lands on the right shape.*

# %% name="setup" lesson="09"
from lesson_lib.setup import start_lesson

budget = start_lesson("09")

# %% name="imports"
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lesson_lib import plot, results, samplers, widgets
from lesson_lib.attention import Words
from lesson_lib.data import shapes
from lesson_lib.dit import DiT, DiTConfig
from lesson_lib.evaluate import count_macs, load_judge, prompt_hits, trained_parameters
from lesson_lib.exercises import REGISTRY, check, predict, prose, revisit, score
from lesson_lib.experiments import text_to_image as text_runs
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.experiments.text_models import draw_captions, load_text
from lesson_lib.flow import RectifiedFlow
from lesson_lib.guidance import Guided, guide
from lesson_lib.official.parity import parity
from lesson_lib.readout import prompt_maps, recorded
from lesson_lib.text import Text, TextToImage, WordTokenizer, join_encoders
from lesson_lib.train import denoising_loss, fit

device, judge, flow = budget.device, load_judge(budget.device), RectifiedFlow(time="logit-normal")
shipped, tokenizer = load_text("mmdit-shapes", device), WordTokenizer.shapes()

# %% [markdown]
# ## What can a sentence say that a class cannot?
#
# Eight prompts, drawn twice by a shipped network (lesson 10 takes it apart). The first four are made of the same words and differ in *whose* they are; so are the last four. Colour on its own shape, in its own place: that is **binding**.
#
# Below, the plot of this lesson: networks trained alike, that differ in how they hear the caption. One gets a single vector, another asks the words by cross-attention. The grey ones wait for lesson 10. By the end you can write both, and say what each can carry. First, three guesses.

# %% name="picture-first"
pairs = [("red circle", "blue square"), ("blue circle", "red square"), ("red square", "blue circle")]
pairs += [("blue square", "red circle"), ("green cross", "pink triangle"), ("pink cross", "green triangle")]
pairs += [("green triangle", "pink cross"), ("pink triangle", "green cross")]
prompts = [f"a large {a} {'above' if k < 4 else 'left of'} a large {b}" for k, (a, b) in enumerate(pairs)]
walk_steps = budget.choose(smoke=6, laptop=20, gpu=25)
rows = {f"noise {seed + 1}": draw_captions(shipped, prompts, seed, steps=walk_steps) for seed in (0, 1)}
short = [text_runs.plain(prompt) for prompt in prompts]
plot.sample_rows(rows, column_titles=short, alt="Eight prompts of two objects, each drawn from two noises")

new = shapes(budget.choose(smoke=16, laptop=96, gpu=480), size=16, objects=2, seed=8)


def as_asked(name, images, scenes):
    """Say in how many pictures the judge finds all that their captions ask for: count, colours, shapes, relation."""
    hits = int(prompt_hits(images, scenes.attributes, judge)["all"].sum())
    share, low, high = results.proportion_interval(hits, len(images))
    print(f"{name:44}{share:6.1%} of {len(images)} as asked [{low:.1%}, {high:.1%}]")


as_asked("shipped, prompts drawn anew", draw_captions(shipped, new.captions, steps=walk_steps), new)

PAIR = ("one vector", "cross-attention")
paint = dict(zip(PAIR, plot.colours(PAIR), strict=True))


def panels(record, metrics, shown, alt, chance=None):
    """Draw a panel for each metric: means and 95 % t-intervals over seeds; variants not shown by name are grey."""
    with plot.figure(alt=alt, height=3.3) as fig:
        spare = dict(zip(shown, plot.colours(list(shown)), strict=True)) | paint
        for (metric, label), axes in zip(metrics.items(), fig.subplots(1, len(metrics), squeeze=False)[0], strict=True):
            for way in sorted(record.variants, key=lambda way: way in shown):
                (mean, low, high), x = zip(*record.curve(way, metric), strict=True), record.x["values"]
                ink = spare[way] if way in shown else "#BBBBBB"
                mark = plot.MARKERS[list(shown).index(way)] if way in shown else "."
                axes.plot(x, mean, marker=mark, markersize=5, color=ink, label=way if way in shown else "_")
                if way in shown:
                    axes.fill_between(x, low, high, color=ink, alpha=0.15, linewidth=0)
            if chance is not None:
                axes.axhline(chance, color="#555555", linewidth=1, linestyle=":")
            axes.set(xlabel=record.x["name"], ylabel=label)
            axes.set_xticks(x, [f"{value:g}" for value in x])
        grey = "" if set(record.variants) == set(shown) else "; grey: the other networks of this record"
        note = f"mean and 95 % t-interval, {len(record.seeds)} seeds{grey}"
        fig.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, title=note)


ways = results.load("text_equal_parameters")
asked_for = {"one": "one object: share as asked", "binding": "two objects: share as asked"}
panels(
    ways,
    asked_for,
    PAIR,
    "Shares as asked over the training, for one object and for two, by one vector and cross-attention",
)

# %% name="guesses"
predict("text.q1")
predict("text.q2")
predict("text.q3")

# %% [markdown]
# ## What must a reader notice?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | | `ids` | `(B, L)` | a caption as numbers: words, an end, padding up to `L` |
# | $y_1, \dots, y_L$ | `tokens` | `(B, L, D)` | one vector for each of them |
# | $p$ | `pooled` | `(B, D)` | one vector for the whole caption |
# | $m$ | `mask` | `(B, L)` | True where a word or the end stands, False for padding |
# | $s$ | `scale` | number | guidance |
#
# The skeleton: a dummy reads, two fresh DiTs stand ready to draw. The dummy looks each word up in a table and takes the mean for $p$. One DiT hears $p$, added to the time as a class was; the other has cross-attention to all $y_n$. Four questions to every reader:
#
# * **word**: does $p$ notice that *circle* becomes *cross*?
# * **order**: does it notice that the two colours trade places?
# * **neighbour**: does the word *circle* itself know its colour?
# * **row**: do words and $p$ stay as they are when the row gets six places longer?

# %% name="skeleton"
torch.manual_seed(0)
table, small = torch.randn(len(tokenizer), 32), replace(DiTConfig.shapes16(), hidden_size=64, num_classes=0)
hears_vector = DiT(replace(small, pooled_size=32))
hears_words = DiT(replace(small, context_size=32, conditioning="adaln-single"))


def bag_of_words(length):
    """Return a dummy that reads rows of this length: a table, the mean of all, and no idea what is padding."""
    return lambda ids: Text(table[ids], table[ids].mean(dim=1), torch.ones_like(ids, dtype=torch.bool))


@torch.no_grad()
def ask(name, reader):
    """Put the four questions to reader(length), which reads ids (B, length)."""
    ids = tokenizer([prompts[0], prompts[0].replace("circle", "cross"), prompts[1]])
    read, further = reader(ids.shape[1])(ids), reader(ids.shape[1] + 6)(F.pad(ids, (0, 6)))
    tokens, pooled = read.tokens.cpu(), read.pooled.cpu()
    circle, real = tokenizer.read(ids[0]).index("circle"), (ids != 0)[:, :, None]
    answers = {
        "word": not torch.allclose(pooled[0], pooled[1], atol=1e-4),
        "order": not torch.allclose(pooled[0], pooled[2], atol=1e-4),
        "neighbour": not torch.allclose(tokens[0, circle], tokens[2, circle], atol=1e-4),
        "row": torch.allclose(pooled, further.pooled.cpu(), atol=1e-4)
        and torch.allclose(tokens * real, further.tokens[:, : ids.shape[1]].cpu() * real, atol=1e-4),
    }
    print(f"{name:32}", "   ".join(f"{what} {'yes' if answer else 'no '}" for what, answer in answers.items()))


ids, x, t = tokenizer(prompts[:2]), torch.randn(2, 3, 16, 16), torch.full((2,), 500.0)
read = bag_of_words(11)(ids)
for name, h in {"ids": ids, "tokens": read.tokens, "pooled": read.pooled, "mask": read.mask,
                "velocity, from one vector": hears_vector(x, t, read.pooled),
                "velocity, from words": hears_words(x, t, None, Words(read.tokens, read.mask))}.items():  # fmt: skip
    print(f"{name:28}{tuple(h.shape)}")
ask("dummy: table and mean", bag_of_words)

# %% [markdown]
# ## How does a caption become numbers?
#
# A bag of words: no order, no neighbours, and padding counts. All three will be mended.
#
# The numbers first. Our captions use few words, so each has its own number; 0 is padding, 1 the end. The **null caption** is the end alone: it is a sentence, only an empty one. A word that the table does not hold is an error here. CLIP's and T5's tokenisers cut it into known *pieces* instead, so that nothing is unknown and one word may be several tokens.

# %% name="captions-to-numbers"
for caption in ("a large red circle at the top left", "", "A RED circle!"):
    row = tokenizer([caption])[0]
    print(f"{caption!r:40} {row.tolist()}  {' '.join(tokenizer.read(row))}")
print(f"{len(tokenizer.words)} words, rows of {tokenizer.length}\n")
for caption in ("a purple cirle", "a red circle above a blue square above a green cross at the top"):
    try:
        tokenizer([caption])
    except ValueError as problem:
        print(results.folded(str(problem)), "\n")

# %% [markdown] exercise_card="text.pooled_text"
# ## What is the one vector of a sentence? (Exercise 9.1 · `pooled_text`)
#
# Not the mean. Let the words hear each other first, in a transformer; then any token can hold a summary. CLIP takes the vector at the *end* token. There it has to: CLIP reads from left to right, and the end alone has heard everything.
#
# **Your turn.** `tokens` is `(B, L, D)`, `ids` `(B, L)`, `end` a number. Return `(B, D)`: of each row, the vector at its *first* end token. (CLIP's own rows go on with end tokens as padding.) The check's cell asks your vector of the mere table, then of the shipped encoder, and draws how alike the vectors of six captions are: 1 the same direction, once the mean of all captions is taken off.

# %% exercise="text.pooled_text"
from lesson_lib.text import pooled_text

# %% name="check-pooled"
pooled_text = check("text.pooled_text", pooled_text)


def longer(encoder, length, kind=None):
    """Copy a trained encoder for rows of another length; kind: another class for its blocks."""
    other = type(encoder)(replace(encoder.config, length=length)).to(device)
    other.load_state_dict(encoder.state_dict())
    for block in other.blocks:
        block.__class__ = kind or block.__class__
    return other.eval()


def summary_of(reader):
    def read_by_end(length):
        def read(ids):
            found = reader(length)(ids)
            return found._replace(pooled=pooled_text(found.tokens.cpu(), ids))

        return read

    return read_by_end


def trained(length):
    return lambda ids: longer(shipped.encoder, length)(ids.to(device))


ask("end token, of a table", summary_of(bag_of_words))
ask("end token, of the encoder", summary_of(trained))
six = ["a large red circle at the centre", "a small red circle at the centre", "a large blue square at the centre",
       *prompts[:2], "a large blue square below a large red circle"]  # fmt: skip
with torch.no_grad():
    every, own = (shipped.encoder(tokenizer(some).to(device)).tokens.cpu() for some in (new.captions, six))
middle = pooled_text(every, tokenizer(new.captions)).mean(dim=0)
alike = F.normalize(pooled_text(own, tokenizer(six)) - middle, dim=1)
plot.heat(alike @ alike.T, xlabel="caption", ylabel="", xticks="123456", label="cosine", centre=0.0,
          yticks=[f"{n + 1}  {text_runs.plain(caption)}" for n, caption in enumerate(six)],
          alt="How alike the pooled vectors of six captions are, as a matrix")  # fmt: skip

# %% [markdown] hints="text.pooled_text"
# idea: find one place in every row, then pick one vector from every row.
# pseudo-code: where ids equal end, as integers; argmax along the row gives the first of the largest; tokens at (0 … B − 1, these places).
# most common error: `tokens[:, -1]`. The last place is padding wherever the caption is short, and every shape is right.

# %% [markdown] exercise_card="attention.masked_map"
# ## What if each patch asks for itself? (Exercise 9.2 · `masked_map`)
#
# Captions 4 and 5 have one set of words, 4 and 6 one meaning; the picture shows how far this vector tells. (The shipped network hears words too, so nothing forces its vector to.) Whatever a vector holds, a modulation says it to all patches alike (lesson 7).
#
# Cross-attention gives up the summary. Every patch makes a query, every word a key and a value, and the patch takes home its own mixture:
#
# $$ \mathrm{softmax}\!\left(\frac{QK^\top}{\sqrt d} + M\right) V, \qquad M_n = \begin{cases} 0 & \text{word} \\ -\infty & \text{padding} \end{cases} $$
#
# The mask is new. Rows have one length, captions have not, and a padded place makes a key like any other. A score of $-\infty$ becomes a share of 0; the words share the whole 1.
#
# **Your turn.** `query` is `(B, h, N, d)`, `key` `(B, h, M, d)`, `mask` `(B, M)`, True for words. Return the shares `(B, h, N, M)`. The check's cell lets a fresh layer ask one caption in rows of 11, 24 and 77.

# %% exercise="attention.masked_map"
from lesson_lib.attention import masked_map

# %% name="check-mask"
masked_map = check("attention.masked_map", masked_map)
generator, caption = torch.Generator().manual_seed(0), "a large red circle at the centre"
query, keys = torch.randn(1, 4, 16, 16, generator=generator), torch.randn(1, 4, 77, 16, generator=generator)
real, bars = len(tokenizer.read(tokenizer([caption])[0])), {}
for length in (11, 24, 77):
    there = (torch.arange(length) < real)[None]
    for name, mask in (("all", torch.ones_like(there)), ("mask", there)):
        bars[length, name] = masked_map(query, keys[:, :, :length], mask).mean(dim=(0, 1, 2))
    to_padding = [float(bars[length, name][real:].sum()) for name in ("all", "mask")]
    print(f"row of {length}: {to_padding[0]:.0%} to padding without a mask, {to_padding[1]:.0%} with it")
alt = "Attention to each place of a row of 24: spread over all without a mask, on words only with it"
with plot.figure(alt=alt, height=2.6) as fig:
    axes, names = fig.subplots(), [*tokenizer.read(tokenizer([caption])[0]), *["(padding)"] * (24 - real)]
    for k, (name, ink) in enumerate(zip(("all", "mask"), plot.colours("ab"), strict=True)):
        label = ("without a mask", "with it")[k]
        axes.bar(torch.arange(24) + 0.4 * k - 0.2, bars[24, name], width=0.4, color=ink, label=label)
    axes.set_xticks(range(24), names, rotation=60, ha="right")
    axes.set_ylabel("share, mean over patches")
    axes.legend()

# %% [markdown] hints="attention.masked_map"
# idea: lesson 5's attention map, with one line between the scores and the softmax.
# pseudo-code: scores = query times key transposed, over √d; where the mask is False, −∞ (the mask needs axes for heads and for queries); softmax over the last axis.
# most common error: multiplying by the mask *after* the softmax. Then rows no longer sum to 1, and the longer the row, the quieter the words.

# %% [markdown]
# Here is the layer, with the mask handed through `attend`, which does what you wrote in PyTorch's fused kernel. Lesson 7's adaLN-single block calls it between its attention and its perceptron, and lets the modulation hear the time alone.

# %% source="attention.CrossAttention"
from lesson_lib.attention import CrossAttention

# %% [markdown] exercise_card="attention.silence"
# ## How does a new branch begin? (Exercise 9.3 · `silence`)
#
# PixArt-α did not train from nothing. It took a DiT that draws ImageNet's classes, whose blocks already know what pictures look like, and put cross-attention in. Random answers from 28 new branches would ruin what is known. So, as with the gates of lesson 7: let the branch say nothing yet.
#
# **Your turn.** `asking` has three linear layers, `q`, `kv` and `proj`. Set weight and bias of the *last* one to zero, in place, and return `asking`. The check's cell follows the gradients for five steps (● some, · exactly none): your layer beside one in which everything is zero.

# %% exercise="attention.silence"
from lesson_lib.attention import silence

# %% name="check-silence"
silence = check("attention.silence", silence)


def all_zero(asking):
    for weight in asking.parameters():
        nn.init.zeros_(weight)
    return asking


def wake(prepare):
    """Return, for each part, at which of five steps of gradient descent it gets a gradient."""
    torch.manual_seed(0)
    asking, words = prepare(CrossAttention(64, 32, 4)), nn.Parameter(torch.randn(4, 11, 32))
    patches, target, seen = torch.randn(4, 16, 64), torch.randn(4, 16, 64), []
    parts = {"last layer": asking.proj.weight, "its bias": asking.proj.bias, "keys, values": asking.kv.weight,
             "queries": asking.q.weight, "words, so the encoder": words}  # fmt: skip
    descent = torch.optim.SGD(parts.values(), lr=1.0)
    for _ in range(5):
        descent.zero_grad()
        (asking(patches, words) - target).square().mean().backward()
        seen.append({name: bool(part.grad.abs().max() > 0) for name, part in parts.items()})
        descent.step()
    return {name: "".join(" ●" if step[name] else " ·" for step in seen) for name in parts}


with torch.no_grad():
    said = silence(CrossAttention(64, 32, 4))(torch.randn(1, 16, 64), torch.randn(1, 11, 32))
print(f"a silenced layer adds at most {said.abs().max():g}")
print(f"{'gradient at step 1 2 3 4 5':28}{'last layer zero':>18}{'all zero':>14}")
quiet, dead = wake(silence), wake(all_zero)
for name in quiet:
    print(f"{name:28}{quiet[name]:>18}{dead[name]:>14}")

# %% [markdown] hints="attention.silence"
# idea: one layer of three, both of its tensors.
# pseudo-code: zeros into proj.weight and proj.bias, without gradient (`nn.init.zeros_` does that); return the layer.
# most common error: zeroing all three layers. What the last layer multiplies is then zero too, and two zeros that wait for each other never move.

# %% [markdown]
# ## Can a network of classes become one of captions?
#
# Silent is not dead: the last layer hears at once what the values offer, and one step later the others wake.
#
# One thing is left. A class DiT has six vectors from a layer *in each block*, made of time and class; PixArt shares one layer and adds tables. Choose the tables so that at one time, $t = 500$, and with the null class, nothing changes:
#
# $$ E^{(i)} = S^{(i)}_\text{old}(500, \varnothing) - \bar S(500) $$
#
# At other times the new network is off by what shared vectors cannot say. How far, the figure shows, for a shipped class DiT.

# %% source="text.start_from_classes"
from lesson_lib.text import start_from_classes

# %% name="equality"
torch.manual_seed(0)
classes = load_shipped("dit-shapes-axial")[0]
started, noisy, null = start_from_classes(classes, 64), torch.randn(8, 3, 16, 16), torch.full((8,), classes.num_classes)
spoken, off = torch.randn(8, 7, 64), {}
with torch.no_grad():
    for time in range(0, 1001, 50):
        t = torch.full((8,), float(time))
        before = classes(noisy, t, null)
        off[time] = float((started(noisy, t, None, spoken) - before).norm() / before.norm())
alt = "Difference between the old and the new network over time: it falls to rounding at 500"
ylabel, line = "difference (share of the answer)", {"": list(off.values())}
plot.lines(list(off), line, logy=True, xlabel="time (1000: noise)", ylabel=ylabel, alt=alt)
print(f"at 500: {off[500]:.0e} of the answer, that is rounding; elsewhere up to {max(off.values()):.0%}")

# %% [markdown] exercise_card="text.RMSNorm.forward"
# ## What is a modern block made of? (Exercise 9.4 · `RMSNorm`)
#
# Now the reader. Your encoder is built like a language model of today, from three parts. The rotations you have (lesson 8). The other two you find again in FLUX.2, Z-Image and Lumina-Image 2.0.
#
# **RMSNorm** is LayerNorm without centring and without shift:
#
# $$ \mathrm{RMSNorm}(x) = \frac{x}{\sqrt{\frac1D \sum_i x_i^2 + \epsilon}} \odot w $$
#
# **Your turn.** `x` is `(..., D)`. Compute in float32, whatever comes in, and return `x`'s own type: squares of bfloat16 numbers are coarse. The check's cell shows what is left of tokens of two features, by both norms.

# %% exercise="text.RMSNorm.forward"
from lesson_lib.text import RMSNorm

# %% name="check-rmsnorm"
RMSNorm = check("text.RMSNorm.forward", RMSNorm)
cloud = torch.randn(300, 2, generator=torch.Generator().manual_seed(1)) + torch.tensor([0.8, 0.2])
with torch.no_grad():
    left = {"as they come": cloud, "after LayerNorm": nn.LayerNorm(2, eps=1e-9)(cloud)}
    left["after your RMSNorm"] = RMSNorm(2)(cloud)
with plot.figure(alt="A cloud of points; LayerNorm leaves two points of it, RMSNorm a circle", height=2.8) as fig:
    for axes, (name, dots) in zip(fig.subplots(1, 3), left.items(), strict=True):
        axes.scatter(*dots.T, s=10, alpha=0.5, c=torch.atan2(cloud[:, 1], cloud[:, 0]), cmap="twilight")
        axes.set(title=name, xlim=(-3, 3), ylim=(-3, 3), aspect="equal", xlabel="feature 1")
    fig.axes[0].set_ylabel("feature 2")

# %% [markdown] hints="text.RMSNorm.forward"
# idea: divide a token by the length of a typical feature.
# pseudo-code: x in float32; the mean of its squares over the last axis, kept as an axis of one; x times one over the root of (mean + eps), times weight; back to x's type.
# most common error: eps outside the root, or dividing by the norm itself. The norm is √D times the root mean square, so every token comes out √D times too short.

# %% [markdown] exercise_card="text.SwiGLU.forward"
# ## Who opens the door? (Exercise 9.5 · `SwiGLU`)
#
# LayerNorm gave away a direction, the mean; RMSNorm takes the length alone, and is cheaper. (With two features, losing one direction leaves two points. With 96 it is a 96th.)
#
# The perceptron of new blocks has two halves. One proposes, the other, through SiLU, decides how far the proposal passes:
#
# $$ \mathrm{SwiGLU}(x) = W_2 \big( \mathrm{SiLU}(W_1 x) \odot W_3 x \big) $$
#
# No biases. Three matrices in place of two, so the hidden width is taken as $\frac83 D$ in place of $4D$, and the weights are as many as before.
#
# **Your turn.** `self.w1`, `self.w3` and `self.w2` are the layers. The check's cell draws one hidden unit of yours, over gate and proposal, and counts.

# %% exercise="text.SwiGLU.forward"
from lesson_lib.text import SwiGLU

# %% name="check-swiglu"
SwiGLU = check("text.SwiGLU.forward", SwiGLU)
unit = SwiGLU(2, 1)
with torch.no_grad():
    for layer, row in ((unit.w1, [[1.0, 0.0]]), (unit.w3, [[0.0, 1.0]]), (unit.w2, [[1.0], [0.0]])):
        layer.weight.copy_(torch.tensor(row))
    gate = torch.linspace(-5, 5, 81)
    passed = {f"proposal {p:g}": unit(torch.stack([gate, torch.full_like(gate, p)], 1))[:, 0] for p in (-1.0, 0.5, 1.0)}
passed["GELU of one number"] = F.gelu(gate)
alt = "What passes a SwiGLU unit over its gate, for three proposals: nothing while the gate is far below zero"
plot.lines(gate, passed, xlabel="gate, W₁ x", ylabel="passes on", alt=alt)
for width in (96, 1152):
    usual = nn.Sequential(nn.Linear(width, 4 * width), nn.Linear(4 * width, width))
    many = [trained_parameters(part) for part in (SwiGLU(width, 8 * width // 3), usual)]
    print(f"width {width:4}: SwiGLU {many[0]:>10,} weights, the usual perceptron {many[1]:>10,}")

# %% [markdown] hints="text.SwiGLU.forward"
# idea: two readings of one token, multiplied feature by feature.
# pseudo-code: w2 of (SiLU of w1 of x, times w3 of x).
# most common error: SiLU on the wrong half. All shapes fit, and weights from elsewhere draw nonsense: in Llama's names, `gate_proj` is $W_1$ and `up_proj` $W_3$.

# %% [markdown]
# ## Who reads the captions?
#
# The parts together. A word block is pre-norm attention in both directions, with words turned by their places, then SwiGLU. Below, your encoder, and the four questions again, to a fresh one and to the shipped one. Training teaches it what words mean; what it *can* notice is there from the start.

# %% source="text.CaptionEncoder"
from lesson_lib.text import CaptionEncoder

# %% name="ask-encoder"


def untrained(length):
    torch.manual_seed(0)
    return CaptionEncoder(replace(shipped.encoder.config, length=length))


ask("fresh", untrained)
ask("shipped", trained)
many = [sum(weight.numel() for weight in part.parameters()) for part in (shipped.encoder, shipped.network)]
print(f"\nshipped: {many[0]:,} weights in the encoder, {many[1]:,} in the network that draws")

# %% [markdown]
# ## What do CLIP and T5 deliver?
#
# All four. Real models do not train their reader with the picture: they take one that has read the web, and freeze it.
#
# | model | words for attention | one vector |
# |---|---|---|
# | Stable Diffusion 1.5 | CLIP ViT-L, 77 × 768 | – |
# | SDXL | two CLIPs side by side, 77 × 2048 | 1280, of OpenCLIP bigG |
# | PixArt-α | T5-XXL, 120 × 4096 | – |
# | SD3 | CLIPs, then T5-XXL | 768 + 1280 |
# | FLUX.1 | T5-XXL, 512 × 4096 | 768, of CLIP ViT-L |
# | Sana; Qwen-Image | language models: Gemma-2-2B, 2304; Qwen2.5-VL-7B, 3584 | – |
#
# CLIP learned to match captions with pictures, so its summary is good at what a picture is *about*. T5 learned to restore text; it has no summary. SD3 takes three encoders: the CLIPs beside each other, zeros up to T5's width, T5 *behind* them. Here with random numbers in the real shapes.

# %% name="three-encoders"


def random_text(length, size, pooled):
    everything = torch.ones(1, length, dtype=torch.bool)
    return Text(torch.randn(1, length, size), torch.randn(1, pooled) if pooled else None, everything)


joined = join_encoders(random_text(77, 768, 768), random_text(77, 1280, 1280), random_text(77, 4096, 0))
print(f"words {tuple(joined.tokens.shape)}, one vector {tuple(joined.pooled.shape)}, ", end="")
print(f"{(joined.tokens == 0).float().mean():.0%} of the words' numbers are filling")
with plot.figure(alt="SD3's text: the first 77 rows hold two CLIPs and zeros, the next 77 T5", height=2.2) as fig:
    axes = fig.subplots()
    axes.imshow(joined.tokens[0].abs().clamp(max=2), aspect="auto", cmap="Blues", interpolation="nearest")
    box = {"facecolor": "white", "edgecolor": "none"}
    for place, name in {384: "CLIP ViT-L", 1408: "OpenCLIP bigG", 3072: "zeros", 2048: "T5-v1.1-XXL"}.items():
        axes.text(place, 115 if "T5" in name else 38, name, ha="center", va="center", size=9, bbox=box)
    axes.set(xlabel="number in a token", ylabel="token")
    axes.grid(False)
revisit("text.q3", joined.tokens.shape[1])

# %% [markdown]
# (SD3 drops each encoder by itself, 46.3 % of the time in §5.3.3, so that all three are gone in about a tenth of the steps, and the huge T5 can be left out when sampling. `text.PublicEncoder` puts CLIP or T5 from `transformers` in your encoder's place; it needs a network to fetch them.)

# %% [markdown] exercise_card="text.Captioned.forward"
# ## How is a network guided by a text? (Exercise 9.6 · `Captioned.forward`)
#
# Guidance needs a prediction *without* (lesson 2). For classes it had the null class. A caption can be a class too: number your captions, and the last number stands for "nothing", the empty caption. Then `Guided` and the training loss work as they are.
#
# $$ u_\varnothing + s\,(u_\text{caption} - u_\varnothing) $$
#
# And who says that $\varnothing$ must be empty? Put another caption there, and the samples are pushed away from *it*. That is a **negative prompt**.
#
# **Your turn.** `self.model(x, t, ids)` draws from numbers of captions, `self.ids` is `(captions + 1, L)`, the null row last; `labels` is `(B,)`. The check's cell draws one caption from eight noises: with more and more guidance, away from the caption with its colours exchanged, and with the prompt as its own negative.

# %% exercise="text.Captioned.forward"
from lesson_lib.text import Captioned

# %% name="check-captioned"
Captioned = check("text.Captioned.forward", Captioned)


@torch.no_grad()
def sample(captions, scale=2.5, nothing="", seed=0, model=shipped, combine=guide):
    """Draw a picture for each caption; the noise is the seed's."""
    model = model.eval()
    numbered = Captioned(model, captions, nothing)
    start = torch.randn(len(captions), 3, 16, 16, generator=torch.Generator().manual_seed(seed)).to(device)
    guided = Guided(numbered, torch.arange(len(captions), device=device), scale, combine)
    return samplers.euler(guided, start, walk_steps, flow).clamp(-1, 1)


eight = [prompts[0]] * 8
rows = {f"scale {scale:g}": sample(eight, scale) for scale in (1, 2.5, 8)}
rows["2.5, away from exchanged colours"] = sample(eight, nothing=prompts[1])
rows["2.5, away from itself"] = sample(eight, nothing=prompts[0])
plot.sample_rows(rows, alt="One caption from eight noises at three guidance scales and with two negative prompts")
apart = (rows["2.5, away from itself"] - rows["scale 1"]).abs().max()
print(f"away from itself, against scale 1: difference {apart:.0e}\n")

numbered, two = Captioned(shipped, prompts), torch.arange(8, device=device)
noise, late, maps, answers = torch.randn(8, 3, 16, 16).to(device), torch.full((8,), 700.0, device=device), {}, {}
for scale in (0, 2, 8):
    with torch.no_grad(), recorded() as found:
        answers[scale] = Guided(numbered, two, scale)(noise, late)
    maps[scale] = found
change = max(float((a - b).abs().max()) for a, b in zip(maps[2], maps[8], strict=True))
line = answers[0] + 4 * (answers[2] - answers[0]) - answers[8]
print(f"scale 2 against scale 8: {len(maps[2])} attention maps differ by {change:g}, ", end="")
print(f"answers by {(answers[2] - answers[8]).abs().max():.2g}; off the straight line by {line.abs().max():.0e}")

# %% [markdown] hints="text.Captioned.forward"
# idea: a table of rows, and labels that choose from it.
# pseudo-code: the model, called with x, t and the rows of self.ids at labels.
# most common error: treating the null label apart. It is an ordinary row, the last; a network that gets zeros there in place of the empty caption hears something that no training showed.

# %% [markdown] exercise_card="readout.word_map"
# ## Which patch asks which word? (Exercise 9.7 · `word_map`)
#
# **A correction.** "Guidance scales the attention weights", it is said. It never touches them: the last line compares every map at two scales. Guidance draws a straight line through two finished answers, and goes further along it.
#
# The maps themselves can be read. Of a map $A$, column $j$ says how much each patch asks word $j$; laid out like the picture, it shows *where a word is heard*.
#
# The shipped network's maps are **joint**: words and patches ask words and patches, words first, in one softmax, and `image_to_text` cuts out the part that you need. (Lesson 10 builds it.) There a patch's shares of all words do not sum to 1; compare patches with each other.
#
# **Your turn.** `attention` is a joint map or one of cross-attention, `words` the length of the row, `word` a place in it, `rows` those of patches. Return `(B, h, rows, columns)`, and raise `ValueError` for a word that is not there, or patches that do not fill the rows. The dial: a drawn picture, and where each word of its caption is heard while the picture is mostly noise, half noise, nearly done; above each map its largest share.

# %% exercise="readout.word_map"
from lesson_lib.readout import word_map

# %% name="check-word-map"
word_map = check("readout.word_map", word_map)
caption, moments = prompts[0], (0.9, 0.5, 0.1)
drawn, row = sample([caption], seed=3), tokenizer([caption]).to(device)
fresh_noise = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(1)).to(device)
heard = {}
for moment in moments:  # the mean over sixteen noises
    t = torch.full((16,), moment, device=device)
    noisy, _ = flow.training_pair(drawn.expand(16, -1, -1, -1), fresh_noise, t)
    heard[moment] = prompt_maps(shipped, noisy, flow.model_time(t), row.expand(16, -1))


def where_heard(option):
    """Draw the picture, then one word's map at each moment, the mean over blocks, heads and noises."""
    place = int(option.split(" ")[0]) - 1
    with plot.figure(alt=f"Where the word {option} is heard", height=1.45) as fig:
        first, *others = fig.subplots(1, 4)
        first.imshow((drawn[0].cpu() + 1).permute(1, 2, 0) / 2)
        for axes, moment in zip(others, moments, strict=True):
            found = [word_map(one, row.shape[1], place, 4).mean(dim=(0, 1)) for one in heard[moment]]
            mean = torch.stack(found).mean(dim=0).cpu()
            axes.imshow(mean, vmin=0, vmax=mean.max())
            axes.set_title(f"t = {moment:g}: to {mean.max():.0%}", size=8)
        for axes in fig.axes:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)


options = [f"{place} {word}" for place, word in enumerate(tokenizer.read(row[0].cpu()), 1)]
options = [option for option in options if option.split(" ")[1] not in ("a", "large")]
widgets.menu(options, where_heard, label="word", alt=f"Where each word of '{caption}' is heard, at three times")

# %% [markdown] hints="readout.word_map"
# idea: one column of a map, folded into rows.
# pseudo-code: refuse what does not fit; image_to_text(attention, words) is (B, h, N, words); take [..., word]; unflatten the last axis into (rows, rest).
# most common error: cutting the column from the joint map as it is. Its first rows are words that ask, and the picture is shifted by them.

# %% [markdown]
# A picture of a map invites stories, so count. The record takes real scenes with two objects, noised, and asks whether a colour word is heard more on *its own* object than on the other: ½ is chance. Left, the mean over blocks and heads; right, the best block. The networks are those of the comparison below; grey, lesson 10's.

# %% name="reading-record"
acts = results.load("text_attention")
what = {"colour": "on its own object: all blocks", "best_colour": "the best block"}
panels(acts, what, PAIR[1:], "Share of a colour word's map on its own object, over time, for five networks", chance=0.5)
for time, (mean, low, high) in zip(acts.x["values"], acts.curve("cross-attention", "colour"), strict=True):
    found = "chance is not excluded" if low <= 0.5 <= high else "more than chance" if low > 0.5 else "less than chance"
    print(f"cross-attention, t = {time:g}: {mean:.3f} [{low:.3f}, {high:.3f}]: {found}")

# %% [markdown]
# ## Does it compute what PixArt-α computes?
#
# Random weights, moved over from diffusers' PixArt, with words, without, and with padding. Then the count at its published size, T5's 4,096 numbers brought to 1,152 by a perceptron of two layers.
#
# And the **27 %**. Often told as computation that adaLN-single saves, it is a share of *parameters* (§3.3). Both shares, counted:

# %% name="assemble"
print(parity("pixart"), "\n")
with torch.device("meta"):
    net = DiT(replace(DiTConfig.paper("XL/2"), num_classes=0, context_size=1152, conditioning="adaln-single"))
    work = count_macs(net, torch.empty(1, 4, 32, 32), torch.empty(1), None, torch.empty(1, 120, 1152))
words_in = 4096 * 1152 + 1152 + 1152 * 1152 + 1152
weights, own = trained_parameters(net) + words_in, 28 * (6 * 1152**2 + 6 * 1152)
print(f"PixArt-α: {weights:,} weights; {work / 1e9:.0f} thousand million multiply-adds")
print(f"with a modulation layer in every block: {(own + weights) / 1e6:.0f} M weights, ", end="")
print(f"{own / (own + weights):.1%} of them in those layers, for {own / (own + work):.2%} of the multiply-adds")
asks = sum(w.numel() for block in net.blocks for w in block.cross_attn.parameters())
print(f"cross-attention: {asks / 1e6:.0f} M weights, {asks / weights:.0%}")

# %% [markdown]
# ## Is a class network a good start?
#
# Train both starts now, on captions with one object: the same network, from nothing and from the class DiT. One seed, few steps, losses and eight samples. Beside it the record of longer trainings, also on combinations of colour and shape that no *caption* of the training has shown. (The class DiT has: it knows all 24.)

# %% name="train"
known = text_runs.scenes("one", budget.choose(smoke=200, laptop=1000, gpu=4000), 3)
work = budget.choose(smoke=6, laptop=200, gpu=1000)


def learn(model):
    told, tensors = denoising_loss(flow, label_dropout=0.1), (known.images, torch.arange(len(known)))
    plan = {"batch_size": 32, "lr": 1e-3, "warmup": 20, "ema": 0.95}
    return fit(Captioned(model, known.captions), tensors, told, steps=work, progress=False, **plan)


def fresh_network():
    torch.manual_seed(0)
    single = replace(classes.config, num_classes=0, context_size=64, conditioning="adaln-single")
    return text_runs.build(single).to(device)


from_nothing, from_classes = fresh_network(), fresh_network()
from_classes.network.load_state_dict(start_from_classes(classes, 64).state_dict())
losses = {"from nothing": learn(from_nothing), "from classes": learn(from_classes)}
for name, run in losses.items():
    print(f"{name}: {run.steps} steps, {run.seconds:.0f} s, peak memory {run.peak_memory_mb:.0f} MB")
print(f"on {device}; budget: {budget.name}")
plot.losses(losses, alt="Training losses of a text-to-image network from nothing and from a class network")
wanted = [f"{pair[0]} at the centre" for pair in pairs]
rows = {"from nothing": sample(wanted, model=from_nothing), "from classes": sample(wanted, model=from_classes)}
plot.sample_rows(rows, column_titles=wanted, alt="Samples of both networks after the short training")
starts = results.load("text_start")
what = {"one": "one object: share as asked", "new_one": "the same, combinations not told"}
panels(starts, what, tuple(starts.variants), "Shares as asked over the training, from nothing and from classes")
for metric, at in (("one", 0.25), ("one", 1.0), ("new_one", 1.0)):
    print(results.verdict(starts, metric, better="higher", at=at))

# %% [markdown]
# ## One vector or many tokens?
#
# Now the question. Recorded runs, seeds paired, one object or two, captions without articles and sizes. First at equal parameters, then at equal multiply-adds. Four combinations never appear in training; "new" asks for one of them, alone or beside a known object.

# %% name="ablation-ways"
print("never in training:", ", ".join(" ".join(pair) for pair in text_runs.HELD_OUT), "\n")
compute = results.load("text_equal_compute")
for record in (ways, compute):
    plan = record.configuration
    print(f"— {record.title}: {plan['steps']} steps of {plan['batch_size']}, {len(record.seeds)} seeds, ", end="")
    print(f"guidance {plan['guidance_scale']:g} —")
    print(f"{'':18}{'one':>7}{'two':>7}{'new one':>9}{'new, two':>10}{'FD-judge':>10}{'weights':>10}{'MMAC':>7}")
    for way in PAIR:
        one, two, new_one, new_two, fd, weights, macs = (
            results.interval(record.values(way, metric, at=1.0))[0]
            for metric in ("one", "binding", "new_one", "new_binding", "fd_judge", "parameters", "macs_millions")
        )
        print(f"{way:18}{one:>7.1%}{two:>7.1%}{new_one:>9.1%}{new_two:>10.1%}{fd:>10.1f}{weights:>10,.0f}{macs:>7.1f}")
    for metric in ("binding", "one", "new_one", "new_binding", "fd_judge"):
        better = "lower" if metric == "fd_judge" else "higher"
        print(results.verdict(record, metric, better=better, at=1.0, variants=PAIR))
    print()
for way in PAIR:
    gap = [a - b for a, b in zip(ways.values(way, "one", at=1.0), ways.values(way, "binding", at=1.0), strict=True)]
    mean, low, high = results.interval(gap)
    told = (
        "is right more often than"
        if low > 0
        else "is right less often than"
        if high < 0
        else "is not established to differ from"
    )
    print(f"{way}: one object {told} two, {mean:+.1%} [{low:+.1%}, {high:+.1%}], paired")
revisit("text.q1")
revisit("text.q2")
new_pairs = {"new_one": "new combination alone", "new_binding": "beside a known object"}
panels(ways, new_pairs, PAIR, "Shares as asked for combinations that no training picture showed")

# %% [markdown]
# The intervals write the sentences; where one says that no difference is established, neither side of the quarrel has been shown. And these are 1,000 steps of small networks: who learns faster is measured, who would come furthest is not. What holds by construction: a modulation has no token axis, so whatever one vector knows must be taken apart by the blocks; cross-attention offers the parts, and each patch must still learn which are its own.
#
# **A correction.** "Cross-attention works better than AdaLN for text." As a law it is not established, and it mixes two questions.
#
# * *Which signal?* For a class DiT's Table 4 found the opposite: 19.47 with adaLN-Zero, 26.14 with cross-attention.
# * *How much of the text?* A modulation carries a pooled vector. SD3 calls that too coarse and adds the words (§4); it keeps the vector as well.
# * *Against what?* In SD3's comparison on CC12M cross-attention beats plain concatenation, and MMDiT beats both; DiT-Air later finds that concatenation catches up with size.
# * PixArt's own ablation of modulations has a slightly *lower* FID for time plus text in every block's layer, with pictures judged on par (§3.3).
#
# What you can say: words need attention, of one kind or another; global signals suit modulation; most models use both.
#
# ## How much should be forgotten, and how much exaggerated?
#
# Guidance needs a network that has also seen nothing. So captions are dropped in training: never, in 10 %, in 30 % of the cases. Here for a two-stream network of lesson 10, against the scale at which it is sampled.

# %% name="ablation-dropout"
dropout = results.load("text_dropout")
what = {"binding": "two objects: share as asked", "one": "one object: share as asked"}
panels(dropout, what, tuple(dropout.variants), "Shares as asked over the guidance scale, for three rates of dropout")
for at in (1.0, 2.0, 8.0):
    print(results.verdict(dropout, "binding", better="higher", at=at))
for name in dropout.variants:
    for low_scale, high_scale in ((1.0, 3.0), (3.0, 8.0)):
        pairwise = zip(*(dropout.values(name, "binding", at=at) for at in (low_scale, high_scale)), strict=True)
        mean, low, high = results.interval([b - a for a, b in pairwise])
        told = "helps" if low > 0 else "hurts" if high < 0 else "no change is established"
        print(f"{name}, scale {low_scale:g} to {high_scale:g}: {mean:+.1%} [{low:+.1%}, {high:+.1%}], {told}")

# %% [markdown] exercise_card="text.block_bug"
# ## Who reads what is not there? (Exercise 9.8 · find the bug)
#
# "Never dropped" has an empty caption that it has never seen, and guides away from whatever it makes of it.
#
# A student rewrote the word block. Every shape is right, and with rows of one length there is nothing to compare. Then the rows were made 77 long, for longer captions to come: same weights, same captions, same noise. Trust the numbers more than your eyes.
#
# **Your turn.** Below the symptom stands that block. Its parts are right; mend `forward` in place.

# %% name="symptom" cellView="form"
bug = REGISTRY["text.block_bug"]
Student, rows = bug.adopt(bug.mistake(bug.broken).function), {}
for name, kind in (("library", None), ("student", Student)):
    vectors, drawings = [], []
    for length in (11, 77):
        reader = longer(shipped.encoder, length, kind)
        drawings.append(sample(prompts, model=TextToImage(reader, shipped.network)))
        rows[f"{name}, rows of {length}"] = drawings[-1]
        with torch.no_grad():
            vectors.append(reader(reader.tokenizer(prompts).to(device)).pooled)
    moved = (vectors[1] - vectors[0]).norm() / vectors[0].norm()
    print(f"{name}: rows of 77 in place of 11 move the pooled vectors by {moved:.1%} of their length, ", end="")
    print(f"and a pixel by up to {(drawings[1] - drawings[0]).abs().max():.2g}")
alt = "Samples with rows of 11 and of 77, by the library's encoder and by the student's"
plot.sample_rows(rows, column_titles=short, alt=alt)

# %% exercise="text.block_bug"
from lesson_lib.text import WordBlock

# %% name="check-block-bug"
WordBlock = check("text.block_bug", WordBlock)

# %% [markdown] hints="text.block_bug"
# idea: `forward` gets three arguments. Follow each of them to where it is used.
# pseudo-code: queries and keys are turned; attend gets query, key, value *and the mask*; two residual branches as before.
# most common error: looking at one row length only. Train with the bug, and the network gets used to its padding; the error appears on the day the length changes.

# %% [markdown]
# ## What did they break?
#
# Three more students. A trained the class start anew, on captions with one object. B and C only sampled from the shipped network. Run the next cell without reading it: what did each do?

# %% name="break-it-run" cellView="form"
a = fresh_network()
a.network.load_state_dict(start_from_classes(classes, 64).state_dict())
for block in a.network.blocks:
    all_zero(block.cross_attn)
both = {"from classes, sound": losses["from classes"], "A": learn(a)}
plot.losses(both, alt="Loss of the sound network and of A over the training")
one = text_runs.scenes("one", budget.choose(smoke=16, laptop=60, gpu=240), 50)
as_asked("from classes, sound (one object)", sample(one.captions, model=from_classes), one)
as_asked("A (one object)", sample(one.captions, model=a), one)


class C(TextToImage):
    def hear(self, ids):
        vector, words = super().hear(ids)
        return vector, words._replace(mask=torch.ones_like(words.mask))


def swapped(with_it, without, scale):
    return guide(without, with_it, scale)


c = C(longer(shipped.encoder, 77), shipped.network)
rows = {"sound": sample(wanted, model=from_classes), "A": sample(wanted, model=a)}
plot.sample_rows(rows, column_titles=wanted, alt="Samples of the sound network and of A")
rows = {"shipped": sample(prompts), "B": sample(prompts, combine=swapped), "C": sample(prompts, model=c)}
plot.sample_rows(rows, column_titles=short, alt="Samples of the shipped network, of B and of C")
as_asked("shipped, sound (two objects)", sample(new.captions), new)
as_asked("B (two objects)", sample(new.captions, combine=swapped), new)
as_asked("C (two objects)", sample(new.captions, model=c), new)

# %% [markdown]
# <details><summary>A</summary>
#
# A zeroed all of cross-attention, not the last layer alone. Values of zero give the last layer no gradient, a last layer of zero gives the values none: no word is ever heard. Only a bias learns. The rest of the network goes on training, and its samples follow their noise and no caption.
# </details>
# <details><summary>B</summary>
#
# B's two predictions trade places: $u_\text{caption} + s\,(u_\varnothing - u_\text{caption})$. With $s = 2.5$ every sample runs *away* from its caption. At scale 1 it would only have been ignored, and without guidance nothing would have shown.
# </details>
# <details><summary>C</summary>
#
# C made the rows 77 long, "as CLIP's", and dropped the mask on the way to the network. Most of what patches may ask is padding now. A network *trained* so would have learned to live with it, as SD3 and FLUX.1 have; this one has not.
# </details>
#
# In your own words:

# %% name="in-words"
prose("text.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | how words come in | what differs from yours |
# |---|---|---|
# | CompVis/stable-diffusion, `ldm/modules/attention.py` | cross-attention in the U-Net's transformer blocks | a LayerNorm before it; its last layer is not zero, the whole transformer's is; no mask, 77 tokens always; GEGLU |
# | PixArt-alpha/PixArt-alpha, `diffusion/model/nets/PixArt.py` | cross-attention after self-attention, no norm, no gate | padding is cut out before the blocks; the null caption is a table of its own |
# | NVlabs/Sana, `diffusion/model/nets/sana.py` | the same block, around linear self-attention | the words may pass an RMSNorm; in this file no last layer starts at zero |
# | Stability-AI/sd3-ref, `sd3_infer.py`, `mmdit.py` | joint attention, and one vector with the time | three encoders, no mask |
# | black-forest-labs/flux, `src/flux/model.py` | the same | 512 T5 tokens, no mask |
# | huggingface/transformers, `modeling_clip.py` | – | `pooled_text`, before CLIP's projection |
#
# **A trap.** A checkpoint does not say whether it was trained with its padding heard. Sample with the length and the mask of the training, whatever seems right to you.
#
# ## What have you got now?
#
# * A caption is a row of numbers with an end and padding; a mask keeps the padding quiet, in the encoder and in the network.
# * One vector fits where a class fitted, and is the same for every patch. Words of their own need attention.
# * A new branch starts silent with its *last* layer zero; all of it zero is dead.
# * Guidance combines two answers. A negative prompt is another "nothing".
# * Who binds at this size and after these steps, the verdicts say; that is all they say.
#
# So tell a network what concerns the whole picture in one vector, and let the patches ask for the rest. But in cross-attention words never hear the picture. Lesson 10 lets them talk back.
#
# From now on you can import all of `lesson_lib.text`. Three references:
#
# * Rombach and others, *Latent diffusion* (arXiv 2112.10752), §3.3: cross-attention for any condition.
# * Chen and others, *PixArt-α* (arXiv 2310.00426), §2.3: words into a DiT, and the start from classes.
# * Esser and others, *SD3* (arXiv 2403.03206), App. B.2: three encoders, one sentence.

# %% name="score"
score("09")
