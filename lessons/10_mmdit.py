# %% [markdown] title_card="10"
# # 10 · What if words and patches talk to each other?
#
# *In lesson 9 patches asked words, and the words stayed what they were. Put both into one sentence, and a word can also find out what is being drawn. Stable Diffusion 3, FLUX and Qwen-Image are built so.
# What does the conversation cost, what does it bring, and how much of such a network has to be two?*

# %% name="setup" lesson="10"
from lesson_lib.setup import start_lesson

budget = start_lesson("10")

# %% name="imports"
import copy
import re
from dataclasses import replace

import torch
from einops import rearrange
from torch import nn

from lesson_lib import plot, results, widgets
from lesson_lib.attention import CrossAttention
from lesson_lib.data import scenes, shapes
from lesson_lib.dit import DiT, DiTConfig, unpatchify
from lesson_lib.evaluate import count_macs, load_judge, prompt_hits
from lesson_lib.exercises import REGISTRY, check, predict, prose, revisit, score
from lesson_lib.experiments.text_models import draw_captions, load_text
from lesson_lib.experiments.text_to_image import plain
from lesson_lib.flow import RectifiedFlow
from lesson_lib.mmdit import MMDiTConfig, SingleStreamConfig, SingleStreamDiT, sentence_mask
from lesson_lib.official.parity import parity
from lesson_lib.position import axial_angles
from lesson_lib.readout import prompt_maps, text_mass, word_map
from lesson_lib.shapes import read_captions
from lesson_lib.text import Captioned, CaptionEncoder, TextToImage
from lesson_lib.train import denoising_loss, fit

device, judge = budget.device, load_judge(budget.device)
shipped, flow = load_text("mmdit-shapes", device), RectifiedFlow()

# %% [markdown]
# ## Who is red?
#
# Three pairs of captions, each pair with the same words. The shipped MMDiT draws them from the same two noises. To a vector that adds words up, the two of a pair are the same (lesson 7).
#
# Below, the plot of this lesson: six small networks that hear a text in six ways, trained alike, of equal numbers of weights. The axis is *binding*: the share of pictures for two objects in which number, colours, shapes and relation are all as asked. (A judge network reads them. Of objects on a diagonal it has to name one relation.) By the end you can write each of the six and say which line of code separates two rows.

# %% name="picture-first"
walk_steps = budget.choose(smoke=6, laptop=20)
titles = ["red circle above blue square", "blue circle above red square", "green cross left of pink triangle",
          "pink cross left of green triangle", "yellow square above black circle", "black circle above yellow square"]  # fmt: skip
captions = [re.sub("(above|of) ", r"\1 a large ", f"a large {title}") for title in titles]


def drawn(model, asked=captions, seed=1, scale=2.5):
    return draw_captions(model, asked, seed, scale, walk_steps)


def as_asked(*rows):
    """Return the share of pictures, in rows of all captions, in which the judge finds all that was asked."""
    hits = [prompt_hits(row, read_captions(captions), judge)["all"] for row in rows]
    return f"{torch.stack(hits).double().mean():.0%} of {len(rows) * len(captions)} as asked"


rows = {f"noise {seed + 1}": drawn(shipped, seed=seed) for seed in (0, 1)}
plot.sample_rows(rows, column_titles=titles, alt="Six captions of two objects, drawn twice by the shipped MMDiT")
print(as_asked(*rows.values()))

six = results.load("text_equal_parameters")
end = six.x["values"][-1]


def last(record, metric, label, better="higher"):
    found = {name: record.values(name, metric, at=end) for name in record.variants}
    plot.intervals(found, xlabel=label, better=better, alt=f"{label} at the end, a dot for each seed, with intervals")


last(six, "binding", "binding, equal numbers of weights")
print(results.verdict(six, "binding", better="higher", at=end))

# %% name="guesses"
predict("mmdit.q1")
predict("mmdit.q2")
predict("mmdit.q3")

# %% [markdown]
# ## Who hears whom?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $L$, $N$ | | | words of a caption, its end included; patches of a picture |
# | $x_t$, $x_i$ | `text`, `image` | `(B, L, D)`, `(B, N, D)` | their tokens; together the *sentence*, words first |
# | $q, k, v$ | `Heads` | three of `(B, h, L, d)` | of one side, in $h$ heads |
# | | `mask` | `(B, L)` | True for words that are there |
# | $c$ | `c` | `(B, D)` | time and the one vector of the text, added |
# | $A$ | `joint` | `(B, h, L + N, L + N)` | who asks (row) whom (column) |
#
# The skeleton takes the shipped network's doors; its blocks are a dummy that returns what it gets. A test turns three knobs, the last word, the last patch, and $c$, and asks who notices: the *first* word, the *first* patch? Under the dummy, lesson 9's cross-attention.

# %% name="skeleton"
net, size = shipped.network, shipped.network.config.hidden_size


def say(name, h):
    print(f"{name:18}{tuple(h.shape)}")
    return h


@torch.no_grad()
def skeleton(caption, x, t, run):
    text = shipped.encoder(say("numbers", shipped.encoder.tokenizer([caption]).to(device)))
    words = say("words", net.context_embedder(text.tokens))
    patches = say("patches", net.x_embedder(x))
    c = say("c", net.t_embedder(t) + net.y_embedder(text.pooled))
    words, patches = run(words, patches, c)
    say("velocity", unpatchify(net.final_layer(say("after the blocks", patches), c), 4, 4))
    return words.cpu(), patches.cpu(), c.cpu()


noise = torch.randn(1, 3, 16, 16, generator=budget.generator(1), device=device)
before = skeleton(captions[0], noise, torch.full((1,), 500.0, device=device), lambda text, image, c: (text, image))


@torch.no_grad()
def ask(name, run):
    """Turn three knobs, and say whether the first word and the first patch notice after run(text, image, c)."""
    text, image, c = before
    other = torch.randn(1, 1, size, generator=torch.Generator().manual_seed(2))
    knobs = {"last word": (torch.cat([text[:, :-1], other], 1), image, c),
             "last patch": (text, torch.cat([image[:, :-1], other], 1), c), "c": (text, image, c + other[0])}  # fmt: skip
    answers = []
    for knob, given in knobs.items():
        same = [torch.allclose(a[:, 0], b[:, 0], atol=1e-5) for a, b in zip(run(*before), run(*given), strict=True)]
        heard = [who for who, deaf in zip(("word", "patch"), same, strict=True) if not deaf]
        answers.append(f"{knob}: {' and '.join(heard) or 'nobody':16}")
    print(f"{name:20}", " ".join(answers))


print()
ask("dummy", lambda text, image, c: (text, image))
torch.manual_seed(0)
asking = CrossAttention(size, size, 3)
ask("cross-attention", lambda text, image, c: (text, image + asking(image, text)))

# %% [markdown] exercise_card="mmdit.joint_attention"
# ## How do two kinds of token share one attention? (Exercise 10.1 · `joint_attention`)
#
# Patches hear words; nobody else hears anything. **Joint attention** lets all ask all. A word and a patch are different things, so each side makes queries, keys and values with layers of its own. Then both are laid end to end, under *one* softmax:
#
# $$ \begin{pmatrix} o_t \\ o_i \end{pmatrix} = \mathrm{softmax}\left( \frac{1}{\sqrt d} \begin{pmatrix} q_t \\ q_i \end{pmatrix} \begin{pmatrix} k_t \\ k_i \end{pmatrix}^{\!\top} \right) \begin{pmatrix} v_t \\ v_i \end{pmatrix} $$
#
# One softmax means one budget: what a patch gives to words it takes from patches.
#
# **Your turn.** `text` and `image` are query, key and value. `rotate`, where given, turns queries and keys of the whole sentence. `attend(query, key, value, mask=…)` takes the sentence's mask, which `sentence_mask(mask, patches)` makes. Lay the heads side by side, `(B, …, h d)`, and return both parts. The check's cell lets words score higher than patches by 0, 1, … 6, and measures the words' share of a patch's attention.

# %% exercise="mmdit.joint_attention"
from lesson_lib.mmdit import joint_attention

# %% name="check-joint"
joint_attention = check("mmdit.joint_attention", joint_attention)
torch.manual_seed(1)
layers = nn.Linear(size, 3 * size), nn.Linear(size, 3 * size)


def two_projections(text, image):
    return [rearrange(layer(x), "b n (three h d) -> three b h n d", three=3, h=3)
            for layer, x in zip(layers, (text, image), strict=True)]  # fmt: skip


def meet(text, image, c):
    heard = joint_attention(*two_projections(text, image))
    return text + heard[0], image + heard[1]


ask("joint attention", meet)
higher, shares = range(7), {}
for name, count, patches in (("here: 11 + 16", 11, 16), ("FLUX.1: 512 + 4096", 512, 4096),
                             ("SD3: 154 + 4096", 154, 4096)):  # fmt: skip
    one, zero = torch.ones(1, 1, patches, 1), torch.zeros(1, 1, patches, 1)
    word = one[:, :, :count]
    shares[name] = [joint_attention((word, s * word, word), (one, zero, zero))[1][0, 0, 0] for s in higher]
alt = "The words' share of attention over their advantage in score: few words among many patches need the most"
plot.lines(higher, shares, xlabel="score of words above patches", ylabel="words' share of attention", alt=alt)

# %% [markdown] hints="mmdit.joint_attention"
# idea: a list of tokens does not care who made them. Join the three pairs along the tokens, and it is self-attention.
# pseudo-code: query, key, value = the pairs concatenated on axis 2; rotate query and key; heard = attend with the sentence's mask; heads side by side; the first L tokens, and the rest.
# most common error: two calls of `attend`, one to words and one to patches, and a sum. Then each has a budget of its own, and no patch can ignore the words.

# %% [markdown] exercise_card="mmdit.split_sentence"
# ## Where do the words end? (Exercise 10.2 · `split_sentence`)
#
# Everybody hears everybody. And dilution is a matter of counting: among 4,096 patches 154 words get 3.6 % where all scores are equal; to be heard they have to score higher.
#
# Guidance is said to scale attention weights. It extrapolates between two *answers*; its scale never enters the network (FLUX.1-dev was trained to take it as one more number in $c$). What does scale the scores of words, at noisy times, is TACA (arXiv 2506.07986).
#
# **Your turn.** `x` is a sentence `(B, L + N, D)`, words first. Return words and patches. The check's cell lays the sentence the other way round, patches first, as diffusers' SD3 does: without rotations, then with the rotations of a sentence that begins with words.

# %% exercise="mmdit.split_sentence"
from lesson_lib.mmdit import split_sentence

# %% name="check-split"
split_sentence = check("mmdit.split_sentence", split_sentence)
text, image, c = before
sentence = torch.cat([text, image], dim=1)
print("words and patches:", *(tuple(part.shape) for part in split_sentence(sentence, text.shape[1])))
with torch.no_grad():
    sides = [side.to(device) for side in two_projections(text, image)]
    for name, turn in (("no rotations", None), ("rotated, words first", net.rotation(text.shape[1], 4, 4, device))):
        right, swapped = joint_attention(*sides, turn), joint_attention(*sides[::-1], turn)[::-1]
        apart = max((a - b).abs().max() for a, b in zip(right, swapped, strict=True))
        print(f"{name:21} patches first changes the answers by up to {apart:.1e}")

# %% [markdown] hints="mmdit.split_sentence"
# idea: the boundary is a number of tokens, not of sentences.
# pseudo-code: on axis 1, up to words; from words on.
# most common error: cutting axis 0, or asking for the last `words` tokens. Where $L = N$ no shape complains.

# %% [markdown]
# ## What does each side own?
#
# A set has no order, so patches first is as good. Who adds a mask or rotations has to know which it is.
#
# Now the **double-stream block**. A `Stream` is all that one side owns: a DiT block whose attention has been taken out. Its `ask` makes queries, keys and values of $\mathrm{modulate}(\mathrm{LN}(x), \beta_1, \gamma_1)$; its `think` takes what was heard through a last layer and the gate $\alpha_1$, then the perceptron, as in lesson 7. Two of them meet once.
#
# "MMDiT is two separate stacks joined by cross-attention" is half true: the *weights* are separate, and SD3's paper likens them to two transformers. But there is one self-attention over both, so that words change too. Cross-attention was the baseline (§5.2.3).

# %% source="mmdit.DoubleStreamBlock"
from lesson_lib.mmdit import DoubleStreamBlock


# %% name="ask-double"
def fresh(kind, *given, seed=1, **options):
    torch.manual_seed(seed)
    return kind(size, 3, *given, **options)


def weights(block):
    return sum(weight.numel() for weight in block.parameters()) / size**2


block, answering = fresh(DoubleStreamBlock), fresh(DoubleStreamBlock, last=True)
ask("double-stream", block)
ask("its last=True", answering)
for stream in (block.text, block.image):
    nn.init.zeros_(stream.adaLN_modulation[1].weight)
    nn.init.zeros_(stream.adaLN_modulation[1].bias)
ask("modulation zero", block)
print(f"weights: {weights(block):.1f} D², with last=True {weights(answering):.1f} D²; each modulation", end=" ")
print(f"{weights(block.text.adaLN_modulation):.1f} D²")

# %% [markdown] exercise_card="mmdit.QKNorm.forward"
# ## What keeps scores from running away? (Exercise 10.3 · `QKNorm.forward`)
#
# In SD3's last block the words only answer: who would read what they think?
#
# Nothing bounds $q \cdot k$. In training at higher resolution in bfloat16 SD3's scores grew, the attention collapsed onto single tokens, and the loss diverged (§5.3.2). bfloat16 counts coarsely where numbers are large. The cure is an RMSNorm for queries and one for keys, in each head:
#
# $$ \hat q = g_q \odot \frac{q}{\mathrm{RMS}(q)}, \qquad \hat k = g_k \odot \frac{k}{\mathrm{RMS}(k)}, \qquad \left| \frac{\hat q \cdot \hat k}{\sqrt d} \right| \le \max|g_q| \, \max|g_k| \, \sqrt d $$
#
# **Your turn.** `self.query` and `self.key` are `RMSNorm`s of $d$ channels. Return both. The check's cell lets query and key layers grow by a factor, then looks into the shipped network: the largest score within each stream, before its QK-norm and after.

# %% exercise="mmdit.QKNorm.forward"
from lesson_lib.mmdit import QKNorm

# %% name="check-qk-norm"
QKNorm = check("mmdit.QKNorm.forward", QKNorm)


def largest(query, key):
    return (query @ key.mT / query.shape[-1] ** 0.5).abs().max().item()


query, key = torch.randn(2, 1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
factors, norm, grown = [2.0**n for n in range(7)], QKNorm(32), {}
for name, keep in {"no norm": lambda q, k: (q, k), "QK-norm": norm}.items():
    pairs = [keep(factor * query, factor * key) for factor in factors]
    grown[name] = [largest(*pair) for pair in pairs]
    most = [(q @ k.mT / 32**0.5).softmax(dim=-1).amax(dim=-1).mean().item() for q, k in pairs]
    print(f"{name}: a query's favourite of 16 gets {most[0]:.0%} at factor 1, {most[2]:.0%} at 4, {most[-1]:.0%} at 64")
label = "layers of queries and keys, factor"
alt = "The largest score over the factor: it grows to thousands without norm, and stays with QK-norm"
plot.lines(factors, grown, xlabel=label, ylabel="largest score", logx=True, logy=True, alt=alt)
print(f"near a score of 200 the next number in bfloat16 is {128 * torch.finfo(torch.bfloat16).eps:g} away")


def listen(name):
    return lambda _, raw, normed: print(f"{name:32} {largest(*raw):6.1f} before, {largest(*normed):6.1f} after")


hooks = [part.register_forward_hook(listen(name)) for name, part in net.named_modules() if name.endswith(".norm")]
ids = shipped.encoder.tokenizer(captions).to(device)
given = noise.expand(6, -1, -1, -1), torch.full((6,), 500.0, device=device), *shipped.hear(ids)
with torch.no_grad():
    net(*given)
for hook in hooks:
    hook.remove()

# %% [markdown] hints="mmdit.QKNorm.forward"
# idea: two norms, two tensors.
# pseudo-code: the query through self.query, the key through self.key, as a pair.
# most common error: one norm for both, or the value normalised as well. The two have learned different weights.

# %% [markdown] exercise_card="mmdit.SingleStreamBlock.forward"
# ## Does every block need two of everything? (Exercise 10.4 · `SingleStreamBlock.forward`)
#
# After some blocks words and patches may speak one language. FLUX.1's **single-stream block** treats the sentence as one, with one set of weights; and attention and perceptron stand *side by side*, reading the same norm:
#
# $$ x \leftarrow x + \alpha \odot W_2 \big[\, \mathrm{attention}(q, k, v) \;;\; \mathrm{GELU}(m) \,\big], \qquad [\,q, k, v, m\,] = W_1 \, \mathrm{modulate}(\mathrm{LN}(x), \beta, \gamma) $$
#
# **Your turn.** `self.linear1` makes all four at once; `self.sizes` says where $q, k, v$ end. `self.norm` is the QK-norm or `None`. The GELU is the tanh one. `mask` is already the whole sentence's. The check's cell compares weights and arithmetic of the two kinds of block.

# %% exercise="mmdit.SingleStreamBlock.forward"
from lesson_lib.mmdit import SingleStreamBlock

# %% name="check-single"
SingleStreamBlock = check("mmdit.SingleStreamBlock.forward", SingleStreamBlock)
single = fresh(SingleStreamBlock)
ask("single-stream", lambda text, image, c: split_sentence(single(torch.cat([text, image], 1), c), text.shape[1]))
with torch.device("meta"):
    parts = torch.empty(1, 512, 3072), torch.empty(1, 4096, 3072), torch.empty(1, 3072)
    costs = {"double": count_macs(DoubleStreamBlock(3072, 24), *parts),
             "single": count_macs(SingleStreamBlock(3072, 24), torch.cat(parts[:2], 1), parts[2])}  # fmt: skip
for name, kind in (("double", block), ("single", single)):
    print(f"{name}: {weights(kind):5.1f} D² weights; in FLUX.1, for 512 + 4,096 tokens, {costs[name] / 1e9:.1f} GMAC")

# %% [markdown] hints="mmdit.SingleStreamBlock.forward"
# idea: one norm, one wide layer, two branches, one layer back, one gate.
# pseudo-code: three vectors from c; linear1 of the modulated norm, split by self.sizes; the first part into three of (b, h, n, d); QK-norm, rotate, attend, heads side by side; concatenate with GELU of the second part; linear2; times the gate; plus x.
# most common error: the perceptron's part first. `linear2` expects what was heard, then what was thought; both orders have the right width.

# %% [markdown] exercise_card="mmdit.MMDiT.run_blocks"
# ## In what order? (Exercise 10.5 · `MMDiT.run_blocks`)
#
# Fewer than half of the weights for the same arithmetic: a token passes one side's weights only, so that a second set costs memory, not work. FLUX.1 spends this on depth: 19 double-stream blocks, then 38 single-stream ones. That is the **hybrid** order: translators first, then a common language.
#
# **Your turn.** `self.double_blocks` take words and patches apart, called as `block(text, image, c, rotate, mask)`. `self.single_blocks` take one sentence, `block(sentence, c, rotate, everyone)`; `everyone` is the sentence's mask. Return the patches. The check's cell gives your network the shipped weights, then takes one block out at a time.

# %% exercise="mmdit.MMDiT.run_blocks"
from lesson_lib.mmdit import MMDiT

# %% name="check-run-blocks"
MMDiT = check("mmdit.MMDiT.run_blocks", MMDiT)
mine = MMDiT(net.config).to(device).eval()
mine.load_state_dict(net.state_dict())
with torch.no_grad():
    print(f"your network with the shipped weights: difference {(mine(*given) - net(*given)).abs().max():.1e}")
rows = {"all blocks": drawn(TextToImage(shipped.encoder, mine), captions[:4])}
for kind in ("double", "single"):
    for place in range(len(getattr(mine, f"{kind}_blocks"))):
        shorter = copy.deepcopy(mine)
        del getattr(shorter, f"{kind}_blocks")[place]
        rows[f"without {kind} {place + 1}"] = drawn(TextToImage(shipped.encoder, shorter), captions[:4])
plot.sample_rows(rows, column_titles=titles[:4], alt="Four captions, by all blocks and with one left out at a time")

# %% [markdown] hints="mmdit.MMDiT.run_blocks"
# idea: two loops; between them the two become one.
# pseudo-code: for each double block: text, image = block(…); sentence = both, words first; everyone = sentence_mask(mask, patches); for each single block: sentence = block(…); the second part of split_sentence.
# most common error: joining inside the first loop, or handing `mask` to the single blocks: it is short by the patches.

# %% [markdown] exercise_card="mmdit.SandwichBlock.forward"
# ## How little modulation is enough? (Exercise 10.6 · `SandwichBlock.forward`)
#
# Z-Image and Lumina-Image 2.0 have one set of weights from the first block to the last, and the newer parts of lesson 9: RMSNorm, SwiGLU, no biases. A branch stands between *two* norms, a sandwich. There is no shift, and tanh bounds the gate:
#
# $$ x \leftarrow x + \tanh(\alpha) \odot \mathrm{RMS}'\big(\mathrm{branch}(\mathrm{RMS}(x) \odot (1 + \gamma))\big) $$
#
# Lumina's 24 query heads share 8 of keys and values (GQA). SD3 is said to use GQA and ALiBi: it has neither, but plain heads, no bias on its scores, and a table of sines added once.
#
# **Your turn.** `self.adaLN_modulation(c)` holds scale, gate, scale, gate, `(B, 4 D)`: attention, then perceptron. `self.ask(x, rotate, mask)` is the attention of normalised tokens; norms are `norm1`, `norm1_after`, `norm2`, `norm2_after`. Refiners hear no time: where `c` or the layer is `None`, there is neither scale nor gate. The check's cell raises all gates and measures how far a block moves its tokens.

# %% exercise="mmdit.SandwichBlock.forward"
from lesson_lib.mmdit import SandwichBlock

# %% name="check-sandwich"
SandwichBlock = check("mmdit.SandwichBlock.forward", SandwichBlock)
sandwich = fresh(SandwichBlock, 256, condition_size=size)
ask("sandwich", lambda text, image, c: split_sentence(sandwich(torch.cat([text, image], 1), c), text.shape[1]))


@torch.no_grad()
def moved(block, layer, gates, raised):
    """Return how far a block moves its sentence, as a share of its length, with these parts of its modulation raised."""
    other = copy.deepcopy(block)
    bias = layer(other).bias.view(-1, size)
    bias[gates] += raised
    return ((other(sentence, c) - sentence).norm() / sentence.norm()).item()


raised = [0.0, 1, 2, 5, 10, 20, 50]
far = {"single-stream": [moved(single, lambda b: b.adaLN_modulation[1], [2], r) for r in raised],
       "sandwich": [moved(sandwich, lambda b: b.adaLN_modulation, [1, 3], r) for r in raised]}  # fmt: skip
alt = "Way of the tokens over the size of the gates: the single-stream block's grows without end, the sandwich's levels off"
plot.lines(raised, far, xlabel="added to all gates", ylabel="moved (share of the length)", alt=alt)

# %% [markdown] hints="mmdit.SandwichBlock.forward"
# idea: 7.2 with other parts: two norms for each branch, four vectors for the block.
# pseudo-code: without c: x plus norm1_after(ask(norm1(x))), then the perceptron likewise; with c: four vectors with a token axis; the scale inside, as (1 + scale), the tanh of the gate outside the second norm.
# most common error: shift, scale, gate as ever. Four vectors of one shape fit any names.

# %% [markdown] exercise_card="mmdit.joint_places"
# ## Where does a word stand? (Exercise 10.7 · `joint_coordinates`)
#
# However loud the gate, a sandwich moves its tokens by a bounded step.
#
# Rotations need places, for words too. Lesson 8 drew the rules; now they enter the joint attention, where a score between word and patch depends on what stands between them.
#
# **Your turn.** Return `(frame, row, column)` of all words, then of all patches in reading order, `(words + height · width, 3)` float32:
#
# | `text` | word $n$ | patch |
# |---|---|---|
# | `"origin"` (FLUX.1) | $(0, 0, 0)$ | (0, row, column) |
# | `"continued"` (Lumina) | $(n, 0, 0)$ | (`words`, row, column) |
# | `"diagonal"` (Qwen-Image) | $(m + n, m + n, m + n)$ | (0, row, column), centred |
#
# with $m = \max(\lfloor H/2 \rfloor, \lfloor W/2 \rfloor)$; `grid_coordinates` and `centred_grid` are lesson 8's. Raise `ValueError` for another `text`. The check's cell draws the agreement of an *equal* query and key: the first word's, and the fortieth's, with each of 16 × 16 patches.

# %% exercise="mmdit.joint_places"
from lesson_lib.position import joint_coordinates

# %% name="check-places"
joint_coordinates = check("mmdit.joint_places", joint_coordinates)
with plot.figure(alt="Agreement of two words with each patch, for three placements of the words", height=4.2) as fig:
    grid = fig.subplots(2, 3)
    for column, rule in enumerate(("origin", "continued", "diagonal")):
        angles = axial_angles(joint_coordinates(40, 16, 16, rule), (16, 56, 56), 10_000)
        for axes, n in zip(grid[:, column], (0, 39), strict=True):
            agree = (angles[40:] - angles[n]).cos().mean(dim=-1).view(16, 16)
            image = axes.imshow(agree, vmin=0.4, vmax=1)
            axes.set(title=f"{rule}: {agree.min():.2f} to {agree.max():.2f}", xticks=[], yticks=[])
            axes.grid(False)
    for axes, n in zip(grid[:, 0], (1, 40), strict=True):
        axes.set_ylabel(f"word {n}")
    fig.colorbar(image, ax=grid, shrink=0.8)

# %% [markdown] hints="mmdit.joint_places"
# idea: two lists of places, one under the other.
# pseudo-code: refuse other names; the picture's places with a frame in front (0, or words where continued); the words' places: zeros, or n in the first column, or m + n in all three; words first.
# most common error: a corner grid beside diagonal words. They start at half a side because the picture is centred; from the corner, they would stand on patches.

# %% [markdown]
# ## Does it compute what the public code computes?
#
# Every rule leans somewhere before anything is learned: towards the upper left or the lower right, all words alike or each a little further. Content can overrule a lean. Which rule serves pictures best, this lesson does not measure.
#
# All parts are yours now. Compared below with diffusers' SD3 (with and without QK-norm and the second attention of SD3.5-medium), FLUX.1 and Qwen-Image, tiny and with random weights in every tensor. Two traps for a converter: in diffusers shift and scale have traded places in the last layer, and again for the words of SD3's last block.

# %% name="assemble"
for key in ("sd3", "flux", "qwen-image"):
    print(parity(key), "\n")

# %% [markdown] exercise_card="mmdit.modulation_share"
# ## What do the weights do? (Exercise 10.8 · `modulation_share`)
#
# A double-stream block has 36 D² weights; you have seen 12 of them make shifts, scales and gates. They touch no token. So how much of a published model is that?
#
# **Your turn.** Return the share of a network's weights, as a number from 0 to 1, whose names contain `adaLN_modulation`. `named_parameters()` gives a shared weight once. The check's cell builds the published sizes on the meta device, without memory.

# %% exercise="mmdit.modulation_share"
from lesson_lib.mmdit import modulation_share

# %% name="check-share"
modulation_share = check("mmdit.modulation_share", modulation_share)
published = {}
for name in ("sd3_medium", "sd35_medium", "sd35_large", "flux_dev", "qwen_image", "z_image", "lumina_image_2"):
    with torch.device("meta"):
        large = (MMDiT(getattr(MMDiTConfig, name)()) if hasattr(MMDiTConfig, name)
                 else SingleStreamDiT(getattr(SingleStreamConfig, name)()))  # fmt: skip
    published[name] = sum(weight.numel() for weight in large.parameters()), modulation_share(large)
with torch.device("meta"):  # PixArt-α is a DiT; two layers bring T5's words from 4096 to its width
    large = DiT(replace(DiTConfig.paper("XL/2"), num_classes=0, conditioning="adaln-single", context_size=1152))
    doors = nn.Sequential(nn.Linear(4096, 1152), nn.Linear(1152, 1152))
own = sum(weight.numel() for name, weight in large.named_parameters() if "t_block" in name or "scale_shift" in name)
total = sum(weight.numel() for weight in [*large.parameters(), *doors.parameters()] if weight.requires_grad)
for name, (count, share) in {**published, "PixArt-α": (total, own / total)}.items():
    print(f"{name:15}{count / 1e9:8.3f} thousand million weights, {share:6.1%} make shifts, scales and gates")
revisit("mmdit.q3", round(100 * published["sd3_medium"][1], 1))

# %% [markdown] hints="mmdit.modulation_share"
# idea: the name tells where a weight lives.
# pseudo-code: sum numel where the word is in the name; divide by the sum of numel of all.
# most common error: `state_dict()`. It lists a shared weight once for each block, and buffers too.

# %% [markdown] exercise_card="readout.four_blocks"
# ## How do you read a joint map? (Exercise 10.9 · `four_blocks`)
#
# A third wherever all blocks are double-stream ones, from two to twenty thousand million weights. PixArt-α shares the layer (the "27 %" is DiT's share of *parameters*, lesson 9), FLUX.2 and DiT-Air too; Z-Image makes it from 256 numbers.
#
# Now look inside. A joint map has four blocks:
#
# | rows ask ↓, columns answer → | words | patches |
# |---|---|---|
# | **words** | text → text: the caption to itself | text → image: "where am I drawn?" |
# | **patches** | image → text: "what am I to be?" | image → image: the picture to itself |
#
# The upper right one does not exist with cross-attention. And a row sums to 1 over *both*: what stands at lower left is no distribution over words.
#
# **Your turn.** Cut `joint` `(B, h, L + N, L + N)` into a dictionary with the four names of `BLOCKS`, in reading order. `renormalise` lets each row of each block sum to 1, and leaves rows of zeros. Raise `ValueError` for a map that is not joint: not square, or without `0 < words <` its side. The check's cell draws one map of the shipped network, averaged over heads, with your cuts, and each block's share of its rows.

# %% exercise="readout.four_blocks"
from lesson_lib.readout import four_blocks

# %% name="check-four-blocks"
four_blocks = check("readout.four_blocks", four_blocks)
caption = captions[2]
asked, length = shipped.encoder.tokenizer([caption]).to(device), shipped.encoder.config.length
scene = scenes([caption], size=16).images.to(device)
names = shipped.encoder.tokenizer.read(asked[0])


def maps_at(t):
    """Return the joint maps of all blocks at time t, averaged over heads, and the noisy picture."""
    moment = torch.tensor([t], device=device)
    noisy, _ = flow.training_pair(scene, noise, moment)
    found = prompt_maps(shipped, noisy, flow.model_time(moment), asked)
    return [joint.mean(dim=1, keepdim=True).cpu() for joint in found], noisy


def show_joint(axes, joint):
    axes.imshow(joint.sqrt(), cmap="magma", vmin=0, vmax=0.7)
    for edge in (axes.axhline, axes.axvline):
        edge(length - 0.5, color="white", linewidth=1.2)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)


joint = maps_at(0.5)[0][1]
with plot.figure(alt="A joint map of 11 words and 16 patches, cut into its four blocks", width=6.2, height=4.6) as fig:
    axes = fig.subplots()
    show_joint(axes, joint[0, 0])
    axes.set_yticks(range(length + 16), [*names, *[f"patch {n + 1}" for n in range(16)]], size=7)
    axes.set_title("block 2 at t = 0.5; brightness is the root of the share")
for name, part in four_blocks(joint, length).items():
    rows_sum = four_blocks(joint, length, renormalise=True)[name].sum(dim=-1).mean()
    print(f"{name:15} {tuple(part.shape[2:])} {part.sum(dim=-1).mean():6.1%} of its rows; renormalised {rows_sum:.2f}")

# %% [markdown] hints="readout.four_blocks"
# idea: two cuts, one across and one down, at the same number.
# pseudo-code: refuse maps that are not joint; rows up to words, and from words on; of each, columns up to words, and from words on; with renormalise each part divided by its sum over the last axis, at least 1e-12.
# most common error: dividing by the sum of columns. A query's shares lie in a *row*.

# %% [markdown]
# ## Where and when do words act?
#
# First the dial: all blocks of the shipped network, words before the white line, from nearly clean to nearly noise. Then five words of one caption as maps over the picture, averaged over blocks, at three times. Then the record: over a real picture with noise, how much of a colour word's map lies on the object that it names rather than on the other (½ is chance), and how much attention patches give to words, as a multiple of the words' share of tokens (cross-attention: 1, by definition).


# %% name="dial-joint"
def draw_joint(t):
    found, noisy = maps_at(t)
    with plot.figure(alt=f"Joint maps of {len(found)} blocks at t = {t:g}", height=1.75) as fig:
        first, *others = fig.subplots(1, 1 + len(found))
        first.imshow((noisy[0].cpu().clamp(-1, 1) + 1).permute(1, 2, 0) / 2)
        first.set(xticks=[], yticks=[])
        first.grid(False)
        kinds = ["double"] * len(net.double_blocks) + ["single"] * len(net.single_blocks)
        for axes, joint, kind in zip(others, found, kinds, strict=True):
            show_joint(axes, joint[0, 0])
            axes.set(title=kind, xlabel=f"words get {text_mass(joint, length).item():.0%}")


dial = [0.02, 0.25, 0.5, 0.75, 0.98]
widgets.slider(draw_joint, dial, label="time", alt="Joint attention of every block at five times", width=plot.WIDTH)

# %% name="where-words-act"
spoken = [n for n, word in enumerate(names) if word not in ("a", "large", "of", "·")]
with plot.figure(alt=f"Where {len(spoken)} words are heard in the picture, at three times", height=4.4) as fig:
    for row, t in zip(fig.subplots(3, 1 + len(spoken)), (0.9, 0.5, 0.1), strict=True):
        found, noisy = maps_at(t)
        row[0].imshow((noisy[0].cpu().clamp(-1, 1) + 1).permute(1, 2, 0) / 2)
        row[0].set_ylabel(f"t = {t:g}")
        for axes, n in zip(row[1:], spoken, strict=True):
            axes.imshow(torch.stack([word_map(joint, length, n, 4)[0, 0] for joint in found]).mean(dim=0), cmap="magma")
            axes.set_title(names[n])
        for axes in row:
            axes.set(xticks=[], yticks=[])
            axes.grid(False)


paint = dict(zip(six.variants, plot.colours(list(six.variants)), strict=True))


def panels(record, metrics, logx=False):
    """Draw a panel for each metric: means over seeds, and a band for the 95 % t-interval."""
    alt = f"{record.title}: {', '.join(metrics.values())} over {record.x['name']} for {', '.join(record.variants)}"
    with plot.figure(alt=alt, height=3.4) as fig:
        for metric, axes in zip(metrics, fig.subplots(1, len(metrics), squeeze=False)[0], strict=True):
            for i, (way, spare) in enumerate(zip(record.variants, plot.colours(list(record.variants)), strict=True)):
                colour = paint.get(way, spare)
                (mean, low, high), x = zip(*record.curve(way, metric), strict=True), record.x["values"]
                axes.plot(x, mean, marker=plot.MARKERS[i], markersize=5, color=colour, label=way)
                axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.set(xlabel=record.x["name"], ylabel=metrics[metric], xscale="log" if logx else "linear")
            axes.set_yscale("log" if metric == "largest_score" else "linear")
            axes.set_xticks(x, [f"{value:g}" for value in x])
            axes.set_xticks([], minor=True)
        note = f"mean and 95 % t-interval, {len(record.seeds)} seeds"
        fig.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3, title=note)


acts = results.load("text_attention")
panels(acts, {"colour": "colour words on their own object", "mass": "attention to words (multiple)"})
for at in (0.9, 0.5, 0.1):
    print(results.verdict(acts, "colour", better="higher", at=at))
revisit("mmdit.q2")

# %% [markdown]
# ## What can you ask for?
#
# Type a caption. A word that the encoder's table lacks is refused, with the nearest that it has. Known words in a new order are no error: try "red circle", or a caption without a relation, and see what it makes of a sentence that it never read. Then the second shipped MMDiT, which learned real pictures, emoji of plants, animals and food, from their names. Its card says what it cannot do.


# %% name="dial-prompt"
def draw_prompt(text):
    pictures = draw_captions(shipped, [text] * 4, seed=3, steps=walk_steps)
    plot.sample_grid(pictures, columns=4, alt=f"Four pictures for: {text}")


examples = ["a small pink cross above a large black circle", "a large black circle above a small pink cross",
            "a large green square", "red circle", "a small blue circle left of a small blue circle", "circle"]  # fmt: skip
widgets.prompt(draw_prompt, examples, label="caption", alt="Six captions drawn, three unlike any of the training")
try:
    draw_prompt("a large purple hexagon above a small read sqare")
except ValueError as problem:
    print(results.folded(str(problem)))
emoji = ["red apple", "tulip", "penguin", "octopus", "watermelon", "frog", "hot beverage", "cactus"]
pictures = draw_captions(load_text("mmdit-emoji", device), emoji, steps=walk_steps)
plot.sample_grid(pictures, titles=emoji, alt="Eight emoji drawn from their names by the second shipped MMDiT")

# %% [markdown]
# ## Who binds?
#
# First live: a continuation of the shipped network. Its encoder gets one row more, a word that means nothing yet, *orange*. It meets the word on orange objects that stand *alone*, among ordinary pictures. One seed, a few seconds: look at the columns with two objects, of which it was shown none in orange.
#
# Then the records: seeds paired, large objects only, four combinations of colour and shape kept out of training ("new"); first at equal weights, then at equal compute. The six: *one vector* (adaLN-Zero), *cross-attention* (PixArt-α), *one sentence* (SD3's concatenation: double-stream blocks whose sides share all weights), *double-stream*, *single-stream*, and *hybrid*. Two pairs are judged alone as well, chosen beforehand because SD3's paper asks for them: double-stream against cross-attention, and two sets of weights against one. The order in that paper, at other sizes, was shared-weight concatenation < UViT < cross-attention < MMDiT (§5.2.3, Fig. 4); the numbers of weights were not matched, as DiT-Air's authors point out (§2), and in their runs at scale the concatenation catches up.


# %% name="train"
def with_word(model, word):
    """Copy a model, its encoder's table longer by one row for a new word."""
    encoder, state = model.encoder, dict(model.encoder.state_dict())
    longer = CaptionEncoder(replace(encoder.config, words=(*encoder.config.words, word))).to(device)
    state["table.weight"] = torch.cat([state["table.weight"], state["table.weight"].mean(dim=0, keepdim=True)])
    longer.load_state_dict(state)
    return TextToImage(longer, copy.deepcopy(model.network)).requires_grad_(True)


def orange(images, paper=240 / 127.5 - 1):
    """Paint yellow objects orange; yellow has no blue, so the third channel tells how much of a pixel is covered."""
    covered = (paper - images[:, 2:]) / (paper + 1)
    return paper + covered * (torch.tensor([255, 130, 0], device=device).view(3, 1, 1) / 127.5 - 1 - paper)


many = budget.choose(smoke=200, laptop=2000)
usual, alone = (shapes(many, size=16, objects=objects, seed=7, device=device) for objects in ((1, 2), 1))
yellow = alone.subset((alone.attributes["colour"][:, 0] == 1).nonzero()[:, 0])
material = torch.cat([usual.images, *[orange(yellow.images)] * 3])
sentences = [*usual.captions, *[caption.replace("yellow", "orange") for caption in yellow.captions] * 3]


def learn(model, images, captions, work):
    told = denoising_loss(flow, label_dropout=0.1)
    return fit(Captioned(model, captions), (images, torch.arange(len(images), device=device)), told,
               steps=work, batch_size=32, lr=1e-3, warmup=10, ema=0.98, progress=False)  # fmt: skip


wanted = ["a large orange circle at the centre", "a large orange cross left of a large blue square",
          "a large blue cross left of a large orange square", "a large red circle above a large yellow square"]  # fmt: skip
pupil, rows = with_word(shipped, "orange"), {}
for name, work in {"before": 0, "after": budget.choose(smoke=6, laptop=60, gpu=200)}.items():
    run = learn(pupil, material, sentences, work) if work else None
    rows[name] = drawn(pupil.eval(), wanted)
print(
    f"{run.steps} steps: {run.seconds:.0f} s, peak memory {run.peak_memory_mb:.0f} MB on {device}; {budget.name} budget"
)
asked_for = [plain(text) for text in wanted]
plot.sample_rows(rows, column_titles=asked_for, alt="Four captions, before and after a new word was learned")

# %% name="ablation-six"
what = {"binding": "two objects", "one": "one object", "new_binding": "two, one of them new"}
for record, equal in ((six, "weights"), (results.load("text_equal_compute"), "compute")):
    plan, seeds = record.configuration, len(record.seeds)
    print(f"— equal {equal}: {plan['steps']} steps, {seeds} seeds, guidance {plan['guidance_scale']:g} —")
    print(f"{'':17}{'two':>7}{'one':>7}{'new two':>9}{'new one':>9}{'FD-judge':>10}{'weights':>11}{'MMAC':>7}")
    for name in record.variants:
        found = {metric: results.interval(record.values(name, metric, at=end))[0] for metric in record.metrics}
        print(f"{name:17}{found['binding']:>7.0%}{found['one']:>7.0%}{found['new_binding']:>9.0%}{found['new_one']:>9.0%}"
              f"{found['fd_judge']:>10.1f}{found['parameters']:>11,.0f}{found['macs_millions']:>7.1f}")  # fmt: skip
    panels(record, what)
    for metric, better in (("binding", "higher"), ("one", "higher"), ("new_binding", "higher"), ("fd_judge", "lower")):
        print(results.verdict(record, metric, better=better, at=end), "\n")
    for other in ("cross-attention", "one sentence"):
        print(results.verdict(record, "binding", better="higher", at=end, variants=("double-stream", other)), "\n")
revisit("mmdit.q1")

# %% [markdown]
# Compare the two columns of one network: who draws one object well and cannot bind two has heard the words and not who they belong to. Limits: 16 × 16 pixels, two objects, a few words, an encoder that is trained along. Nothing here says what a frozen T5 would do.
#
# ## What can be shared, and what does QK-norm buy?
#
# DiT-Air shares modulation across layers and all other weights across words and patches: 36 N D² become 12 D² + 12 N D² (Table 1). In its Table 2 sharing the modulation takes 902 M to 631 M, and GenEval stays at 69.8. Below, the same ladder, small; then the block with and without QK-norm, in bfloat16, without clipping and warm-up, at growing learning rates.

# %% name="ablation-sharing"
sharing, norms = results.load("text_sharing"), results.load("qk_norm")
last(sharing, "binding", "binding, by what is shared")
for name in sharing.variants:
    print(f"{name:25}{sharing.values(name, 'parameters', at=end)[0]:>10,.0f} weights")
for metric, better in (("binding", "higher"), ("fd_judge", "lower")):
    print(results.verdict(sharing, metric, better=better, at=end))
panels(norms, {"loss": "loss at the end", "largest_score": "largest score", "entropy": "entropy (nats)"}, logx=True)
for lr in norms.x["values"]:
    print(results.verdict(norms, "loss", at=lr))

# %% [markdown] exercise_card="mmdit.block_bug"
# ## Whose shifts are these? (Exercise 10.10 · find the bug)
#
# A student wrote a double-stream block. On a fresh network it agrees with the library to the last digit; with the shipped weights it draws the lower row.
#
# **Your turn.** Below it stands that block; its streams are right. Mend `forward`.

# %% name="symptom" cellView="form"
bug = REGISTRY["mmdit.block_bug"]
Student = bug.adopt(bug.mistake(bug.broken).function)


def with_blocks(model, kind):
    """Copy a text-to-image model, its double-stream blocks computing as those of another class."""
    other = copy.deepcopy(model)
    for block in other.network.double_blocks:
        block.__class__ = kind
    return other


torch.manual_seed(0)
young = TextToImage(shipped.encoder, MMDiT(net.config).to(device))
pair = [with_blocks(young, kind).network(*given) for kind in (DoubleStreamBlock, Student)]
print(f"fresh networks, the student's against the library's: difference {(pair[0] - pair[1]).abs().max().item()}")
rows = {"the library's": drawn(shipped), "the student's": drawn(with_blocks(shipped, Student))}
plot.sample_rows(rows, column_titles=titles, alt="Six captions: the library's blocks, the student's, same weights")
for name, row in rows.items():
    print(f"{name:15} {as_asked(row)}")

# %% exercise="mmdit.block_bug"
from lesson_lib.mmdit import DoubleStreamBlock

# %% name="check-block-bug"
DoubleStreamBlock = check("mmdit.block_bug", DoubleStreamBlock)

# %% [markdown] hints="mmdit.block_bug"
# idea: follow each of the two lists of vectors to the two places where it is used.
# pseudo-code: vectors of text: in text.ask and in text.think; vectors of image: in image.ask and in image.think.
# most common error: testing on a fresh network. All modulations are zero there, and zero vectors can be swapped at will.

# %% [markdown]
# ## What did they break?
#
# Three more students. A and B sampled with the shipped weights and code of their own; C trained the shipped network on. Run the next cell without reading it: what did each do?

# %% name="break-it-run" cellView="form"


class A(MMDiT):
    def run_blocks(self, text, image, c, rotate=None, mask=None):
        everyone, words = sentence_mask(mask, image.shape[1]), text.shape[1]
        for block in self.double_blocks:
            image = block(text, image, c, rotate, mask)[1]
        for block in self.single_blocks:
            image = split_sentence(block(torch.cat([text, image], dim=1), c, rotate, everyone), words)[1]
        return image


class B(MMDiT):
    def rotation(self, words, rows, columns, device):
        return self.rope(joint_coordinates(words, rows, columns, "origin")[:, 1:].roll(-words, dims=0).to(device))


others = {name: copy.deepcopy(shipped) for name in "ABC"}
others["A"].network.__class__, others["B"].network.__class__ = A, B
sound, _ = copy.deepcopy(shipped).requires_grad_(True), others["C"].requires_grad_(True)
short = budget.choose(smoke=6, laptop=60, gpu=200)
losses = {"sound": learn(sound, usual.images, usual.captions, short).losses,
          "C": learn(others["C"], usual.images.flip(0), usual.captions, short).losses}  # fmt: skip
plot.losses(losses, alt="Loss of a sound continuation, and C's above it")
rows = {"shipped": drawn(shipped)} | {name: drawn(other.eval()) for name, other in others.items()}
plot.sample_rows(rows, column_titles=titles, alt="Six captions drawn by the shipped network and by those of A, B and C")
for name, row in rows.items():
    print(f"{name:8} {as_asked(row)}")

# %% [markdown]
# <details><summary>A</summary>
#
# A kept the words as they came, through all blocks: cross-attention's words, which are asked and never ask. These weights have learned to read words that have looked at the picture.
# </details>
# <details><summary>B</summary>
#
# B laid the places patches first, for a sentence that begins with words. Every token stands where another should, and no shape complains.
# </details>
# <details><summary>C</summary>
#
# C turned the pictures round and not the captions: pairs that do not belong together. To a caption that says nothing about its picture the best answer is the mean of all pictures, and the loss drives it there.
# </details>
#
# In your own words:

# %% name="in-words"
prose("mmdit.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | model: file | fusion, weights | norms | positions | text |
# |---|---|---|---|---|
# | SD3: Stability-AI/sd3-ref, `mmdit.py` | joint, two sets; 24 double | LayerNorm | table, the middle cut out | CLIP-L, CLIP-G, T5-XXL; pooled CLIPs |
# | SD3.5: Stability-AI/sd3.5, `mmditx.py` | the same; medium: a second attention in 13 blocks | + QK-norm | table | the same |
# | FLUX.1: black-forest-labs/flux, `src/flux/modules/layers.py` | 19 double, 38 single | LayerNorm, QK-norm | 3 axes, words at the origin | T5-XXL; pooled CLIP-L |
# | FLUX.2: black-forest-labs/flux2, `src/flux2/model.py` | 8 double, 48 single; modulation shared by all | the same; SwiGLU, no biases | 4 axes, words on the fourth | Mistral-Small, three layers; no pooled |
# | Qwen-Image: huggingface/diffusers, `transformer_qwenimage.py` | 60 double | LayerNorm, QK-norm | centred, words on the diagonal | Qwen2.5-VL-7B; no pooled |
# | Z-Image: Tongyi-MAI/Z-Image, `src/zimage/transformer.py` | one set, 30 blocks and refiners | sandwich RMSNorm, QK-norm | words, then the picture | Qwen3-4B |
# | Lumina-Image 2.0: Alpha-VLLM/Lumina-Image-2.0, `models/model.py` | one set, 26 and refiners; GQA 24/8 | the same | the same | Gemma-2-2B |
# | DiT-Air: arXiv 2503.10618, §3 | joint, one set; modulation shared by layers, not by kinds | – | – | CLIP-H, T5 and a language model compared |
# | PixArt-α: PixArt-alpha/PixArt-alpha, `diffusion/model/nets/PixArt.py` | cross-attention | LayerNorm, adaLN-single | table | T5, 120 tokens |
# | Sana: huggingface/diffusers, `sana_transformer.py` | cross-attention; patches among themselves by linear attention | adaLN-single | none | Gemma-2-2B |
#
# **A trap.** Maps from two code bases are cut at different places: diffusers' SD3 and Z-Image lay patches first, SD3's own code, FLUX and Qwen-Image words.
#
# ## What have you got now?
#
# * Joint attention: two projections, one softmax, one budget for words and patches.
# * A second set of weights costs memory, hardly any arithmetic. A third of an MMDiT makes shifts, scales and gates.
# * QK-norm bounds a score, a tanh bounds a gate.
# * Who binds, and what may be shared, the verdicts say, for this size.
#
# So let words and patches talk, and let measurements decide how much each side has to own. From now on you can import `lesson_lib.mmdit` and `lesson_lib.readout`. Three references:
#
# * Esser and others, *Scaling rectified flow transformers* (SD3, arXiv 2403.03206): §4, §5.2.3, §5.3.2.
# * *DiT-Air* (arXiv 2503.10618): what can be shared, counted and measured.
# * *Qwen-Image technical report* (arXiv 2508.02324): §2.4, words on the diagonal.

# %% name="score"
score("10")
