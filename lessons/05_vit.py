# %% [markdown] title_card="05"
# # 5 · Can an image be a sentence?
#
# *A transformer reads a list of words and lets every word ask every other. It knows no rows, no columns and no neighbours. Cut a picture into squares and read them out like words: what does it still see, what must it be told, and what does it pay for taking so
# little for granted?*

# %% name="setup" lesson="05"
from lesson_lib.setup import start_lesson

budget = start_lesson("05")

# %% name="imports"
import copy
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from lesson_lib import DATA, diagrams, plot, results, widgets
from lesson_lib.data import digits, hub
from lesson_lib.evaluate import count_macs
from lesson_lib.exercises import check, predict, prose, revisit, score
from lesson_lib.experiments.classifiers import ConvClassifier, load_vit, right
from lesson_lib.official.parity import parity
from lesson_lib.train import classification_loss, fit
from lesson_lib.vit import ViTConfig

device = budget.device
known, unseen = digits("train").to(device), digits("test").to(device)
shipped = load_vit("vit-digits", device)

# %% [markdown]
# ## What does a network look at that knows no neighbours?
#
# A shipped Vision Transformer (ViT) reads handwritten digits as sentences of 16 words; each word is a square of 2 × 2 pixels. One more word belongs to no square, the *class token*: the answer is read from it. Below each digit, in four blocks, whom the class token asks: the brighter a
# patch, the larger its share of the attention (each map has its own scale).
#
# Then the plot of this lesson: unseen digits read rightly by a small convolutional network and by a ViT, against the number of pictures that they learned from. By the end you can write every line of such a network, and say what this plot shows and what it does not.

# %% name="picture-first"
ten = torch.stack([unseen.images[unseen.labels == k][0] for k in range(10)])


def over(axes, picture, shares=None, asking=None, title=""):
    """Draw a picture, or how much each of its patches is asked and its outline; a frame around the patch that asks."""
    if shares is None:
        axes.imshow(picture[0].cpu(), cmap="gray", extent=(0, 4, 4, 0))
    else:
        axes.imshow(shares.view(4, 4).cpu(), cmap="inferno", vmin=0, extent=(0, 4, 4, 0))
        outline, middles = F.pad(picture[0].cpu(), (1, 1, 1, 1), value=-1), torch.arange(-0.25, 4.5, 0.5)
        axes.contour(middles, middles, outline, levels=[0], colors="white", linewidths=0.8)
    if asking is not None:
        x, y = asking % 4, asking // 4
        axes.plot([x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color="#56B4E9", linewidth=2)
    axes.set_title(title, size=8)
    axes.set(xticks=[], yticks=[], xlim=(0, 4), ylim=(4, 0))
    axes.grid(False)


maps = [shares.mean(dim=1)[:, 0, 1:] for shares in shipped.attention_maps(ten)]  # the class token's row, over heads
read = shipped(ten).argmax(dim=1).tolist()
with plot.figure(alt="Ten digits, and whom the class token asks in each of four blocks", height=4.3) as fig:
    for row, line in enumerate(fig.subplots(5, 10)):
        line[0].set_ylabel(f"block {row}" if row else "digit")
        for k, axes in enumerate(line):
            over(axes, ten[k], maps[row - 1][k] if row else None, title="" if row else f"read as {read[k]}")

growth = results.load("data_efficiency")
shares = {"CNN": growth.variants["convolutional"]["accuracy"], "ViT": growth.variants["ViT"]["accuracy"]}
alt = "Accuracy on unseen digits against training pictures, a convolutional network and a ViT, with bands"
labels = {"xlabel": growth.x["name"], "ylabel": "share of unseen digits read rightly"}
plot.curves(growth.x["values"], shares, **labels, logx=True, alt=alt)


def report(name, model, images=unseen.images):
    hits = right(model, images, unseen.labels)
    share, low, high = results.proportion_interval(hits, len(images))
    print(f"{name:30}{share:6.1%} of {len(images)} unseen digits   95 % interval [{low:.1%}, {high:.1%}]")


report("shipped", shipped)

# %% name="guesses"
predict("vit.q1")
predict("vit.q2")
predict("vit.q3")

# %% [markdown]
# ## What does a sentence of patches consist of?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $p$ | `patch_size` | a number | side of a patch, in pixels |
# | $N$ | `tokens` | a number | words in a sentence: $HW / p^2$ patches, and one more where there is a class token |
# | $D$ | `width`, `hidden_size` | a number | numbers in a token |
# | $x$ | `x` | `(B, N, D)` | a batch of sentences |
# | $h, d$ | `num_heads` | numbers | heads, and numbers in one head; $D = h\,d$ |
# | $Q, K, V$ | `query, key, value` | `(B, h, N, d)` | what a token asks, what it answers to, what it tells |
# | $A$ | `shares` | `(B, h, N, N)` | attention map: row $n$ says whom token $n$ asks |
#
# Here is the way from picture to answer with dummies for its two parts. A test turns three knobs. Two pixels inside a patch change places: does the answer notice? The last patch changes: does the *first token* hear of it? Two patches change places: does the answer notice?


# %% name="skeleton"
def brightness(images):  # a dummy: a patch becomes one number, eight times over
    return F.avg_pool2d(images, 2).flatten(2).mT.expand(-1, -1, 8)


@torch.no_grad()
def ask(embed=brightness, mix=lambda x: x, say=lambda name, x: x):
    """Turn three knobs of a picture and say which of them the sentence notices."""

    def read(images, say=lambda name, x: x):
        x = say("mixed", mix(say("embedded", embed(say("picture", images)))))
        logits = say("logits", say("pooled", x.mean(dim=1)) @ torch.ones(x.shape[2], 10, device=device))
        return x[:, 0], x.mean(dim=1), logits

    picture = torch.randn(1, 1, 8, 8, generator=budget.generator(), device=device)
    inside, far, order = picture.clone(), picture.clone(), picture.clone()
    inside[..., 0, :2] = picture[..., 0, :2].flip(-1)
    far[..., 6:, 6:] += 1
    order[..., :2, :4] = picture[..., :2, :4].roll(2, dims=-1)
    (token, pooled, _), answers = read(picture, say), []
    for knob, images, before, part in (
        ("inside a patch", inside, pooled, 1),
        ("a far patch", far, token, 0),
        ("order of patches", order, pooled, 1),
    ):
        same = torch.allclose(before, read(images)[part], atol=1e-5)
        answers.append(f"{knob}: {'no' if same else 'yes'}")
    print("   ".join(answers))


def say(name, x):
    print(f"{name:9}{tuple(x.shape)}")
    return x


ask(say=say)

# %% [markdown] exercise_card="vit.patchify"
# ## What is a word of a picture? (Exercise 5.1 · `patchify`)
#
# Three times no. You replace the dummies piece by piece, and every knob will come to life.
#
# A text has words because somebody left gaps. A picture has none, and ViT's answer is blunt: a word is a square of $p \times p$ pixels, its numbers written in a row. The squares are read like a page, line by line.
#
# **Your turn.** `images` is `(B, C, H, W)`; return `(B, N, C p²)`. Inside a word come first all pixels of channel 0, row by row, then those of channel 1. A picture may be wider than high; one that does not divide is refused (`check_patches` does it). The check's cell lays out four digits as your function
# reads them. Cover the labels at the left: could you tell which is which?

# %% exercise="vit.patchify"
from lesson_lib.vit import patchify

# %% name="check-patchify"
patchify = check("vit.patchify", patchify)
sentences = patchify(ten, 2)
rows = {f"a {k}": sentences[k].view(16, 1, 2, 2) for k in (0, 1, 4, 7)}
titles = [str(place) for place in range(16)]
plot.sample_rows(rows, column_titles=titles, alt="Four digits as rows of sixteen patches of four pixels each")

# %% [markdown] hints="vit.patchify"
# idea: Each side of the picture is two axes in one: which patch, and where in it.
# pseudo-code: refuse what does not divide; then one rearrange: split the height into (height p1) and the width into (width p2); the result's middle axis is (height width), its last (c p1 p2).
# most common error: a single reshape. The shape is right, and the first word is a piece of the top line.

# %% [markdown] exercise_card="vit.PatchEmbed.forward"
# ## How does a word become a token? (Exercise 5.2 · `PatchEmbed.forward`)
#
# A word alone says little, and so its first step is modest: one linear layer, the same for all words, makes $D$ numbers of each. Public code does not write it so: a convolution with kernel $p$ and **stride $p$** multiplies the same numbers by the same weights.
#
# **Your turn.** `self.proj` is that convolution. Its result is a map `(B, D, H/p, W/p)`; a transformer wants `(B, N, D)`, in reading order. Refuse what does not divide here too: a convolution would drop the border and say nothing.
#
# The check's cell does it both ways with shipped weights, asks the skeleton again, and draws the whole sentence of a 3 as the blocks get it: a row for each patch, 64 numbers long.

# %% exercise="vit.PatchEmbed.forward"
from lesson_lib.vit import PatchEmbed

# %% name="check-patch-embed"
PatchEmbed = check("vit.PatchEmbed.forward", PatchEmbed)
layer = PatchEmbed(2, 1, 64).to(device)
layer.load_state_dict(shipped.patch_embed.state_dict())
by_hand = patchify(ten, 2) @ layer.proj.weight.flatten(1).T + layer.proj.bias
print(f"convolution against patchify and a linear layer: difference {(layer(ten) - by_hand).abs().max():.1e}")
ask(embed=PatchEmbed(2, 1, 8).to(device))
labels = {"xlabel": "number in the token", "ylabel": "patch", "label": "value"}
alt = "The sixteen tokens of a 3 as rows of numbers; several rows are the same"
plot.heat(layer(ten[3:4])[0], **labels, centre=0.0, alt=alt)

# %% [markdown] hints="vit.PatchEmbed.forward"
# idea: The convolution has done the cutting and the layer; what is left is the order of the axes.
# pseudo-code: check_patches; proj(images); join the last two axes; swap the last two.
# most common error: reshape to `(B, N, D)`. The numbers of all places are then dealt out anew, and nothing complains.

# %% [markdown] exercise_card="attention.attention_map"
# ## Whom does a token ask? (Exercise 5.3 · `attention_map`)
#
# The first knob moves the answer now. Look for rows that are the same: those patches are blank. Equal words make equal tokens, wherever they stand; that will need a remedy (5.6).
#
# Next, words must hear one another. Read "the bear climbed the tree because **it** was hungry": *it* has a question (which animal?), and *bear* is what answers it. A token does the same with numbers. It sends a **query** $q$, every token holds up a **key** $k$, and the better the two agree, the larger the
# share of attention:
#
# $$ A = \mathrm{softmax}\!\left( \frac{Q K^\top}{\sqrt d} \right), \qquad \text{each row sums to 1} $$
#
# Why $\sqrt d$? A product of two random vectors of $d$ numbers spreads like $\sqrt d$. Undivided, it would be the width, not the picture, that decides how sharp attention is.
#
# **Your turn.** `query` is `(B, h, N, d)`, `key` `(B, h, M, d)`; return `(B, h, N, M)`. The check's cell draws your map for one digit in the four heads of the first block; then the mean largest share among 16 random keys, your way and without the root.

# %% exercise="attention.attention_map"
from lesson_lib.attention import attention_map

# %% name="check-attention-map"
attention_map = check("attention.attention_map", attention_map)
first, three = shipped.blocks[0], ten[3:4]
asking = (three[0, 0].view(4, 2, 4, 2).amax(dim=(1, 3)).flatten() > 0.5).nonzero().flatten()[0].item()
query, key, _ = rearrange(
    first.attn.qkv(first.norm1(shipped.embed(three))), "b n (three h d) -> three b h n d", three=3, h=4
)
rows = attention_map(query, key)[0, :, asking + 1, 1:]  # token 0 is the class token
with plot.figure(alt="Whom one patch of a 3 asks, in four heads of the first block", height=2.2) as fig:
    for head, axes in enumerate(fig.subplots(1, 4)):
        title = f"head {head + 1}: {rows[head].min():.2f} to {rows[head].max():.2f}"
        over(axes, three[0], rows[head], asking, title=title)

sharpest, depths = {"divided by √d": [], "not divided": []}, (1, 2, 4, 8, 16, 32, 64, 128, 256)
for d in depths:
    query, key = torch.randn(2, 500, 1, 16, d, generator=torch.Generator().manual_seed(d))
    for name, factor in zip(sharpest, (1.0, d**0.5), strict=True):
        sharpest[name].append(attention_map(factor * query[..., :1, :], key).amax(dim=-1).mean())
alt = "Largest of sixteen shares: level where scores are divided by the root of d, near 1 for wide heads where not"
labels = {"xlabel": "numbers in a query, d", "ylabel": "mean largest share"}
plot.lines(depths, sharpest, **labels, logx=True, alt=alt)

# %% [markdown] hints="attention.attention_map"
# idea: One product of matrices compares all queries with all keys; a softmax makes shares of scores.
# pseudo-code: query @ key with its last two axes swapped; divide by the root of the last axis' length; softmax over the last axis.
# most common error: softmax over the wrong axis. The keys share out one query's attention, so every *row* sums to 1.

# %% [markdown] exercise_card="attention.SelfAttention.forward"
# ## How many questions at once? (Exercise 5.4 · `SelfAttention.forward`)
#
# Four heads, four answers: one may ask along a stroke while another asks where the paper is empty. Each head has its own $Q$, $K$ and $V$ of $d = D / h$ numbers and its own map. What a token takes home is $AV$, the asked tokens' values in the proportions of its row; a last layer mixes what the heads brought.
#
# **Your turn.** `self.qkv` gives $3D$ numbers for each token: the queries of all heads, then all keys, then all values. Split, let `attend` do the rest (your map times the values; on a GPU a fused kernel that never stores the map), put the heads side by side again, and end with `self.proj`. `map`, further down in the class, needs the same
# split; `rotate` is None until lesson 8.
#
# The check's cell asks the skeleton, then changes the order of a sentence and looks at the result.

# %% exercise="attention.SelfAttention.forward"
from lesson_lib.attention import SelfAttention

# %% name="check-self-attention"
SelfAttention = check("attention.SelfAttention.forward", SelfAttention)
torch.manual_seed(0)
ask(embed=PatchEmbed(2, 1, 8).to(device), mix=SelfAttention(8, num_heads=2).to(device))
layer, words, order = SelfAttention(8, num_heads=2), torch.randn(1, 16, 8), torch.randperm(16)
with torch.no_grad():
    apart = (layer(words[:, order]) - layer(words)[:, order]).abs().max()
print(f"shuffled before against shuffled after: difference {apart:.1e}")

# %% [markdown] hints="attention.SelfAttention.forward"
# idea: Heads are made by splitting the width, never the sentence.
# pseudo-code: rearrange qkv(x) from "b n (three h d)" to "three b h n d" and unpack three tensors; attend; rearrange "b h n d" to "b n (h d)"; proj.
# most common error: `view` to (B, h, N, d). Every shape fits, and a head gets pieces of other tokens. First split, then move the axis.

# %% [markdown]
# A far patch arrives, and the order still does not. The last line says why: shuffle the words, and the same answers come out, shuffled. **Attention reads a set.** Somebody has to tell it what stands where.
#
# What attention brings, each token then thinks over alone, in a *perceptron* (MLP): two layers with a GELU between them. In ViT the middle is four times as wide.

# %% source="vit.Mlp"
from lesson_lib.vit import Mlp

# %% [markdown] exercise_card="vit.EncoderBlock.forward"
# ## What happens between two questions? (Exercise 5.5 · `EncoderBlock.forward`)
#
# A block asks, then thinks. Both are corrections, as in lesson 3's residual block, and both read *normalised* tokens:
#
# $$ x \leftarrow x + \mathrm{Attention}(\mathrm{norm}_1(x)), \qquad x \leftarrow x + \mathrm{MLP}(\mathrm{norm}_2(x)) $$
#
# LayerNorm brings the $D$ numbers of each token to mean 0 and variance 1, then stretches and shifts them as learned. It stands *inside* the branch ("pre-norm", ViT Eqs. 2 and 3): the sum itself is never normalised.
#
# **Your turn.** Two lines, with `self.norm1`, `self.attn`, `self.norm2`, `self.mlp`. The check's cell gives your blocks the shipped weights and silences one branch at a time: what can the network still read?

# %% exercise="vit.EncoderBlock.forward"
from lesson_lib.vit import EncoderBlock

# %% name="check-block"
EncoderBlock = check("vit.EncoderBlock.forward", EncoderBlock)
blocks = nn.Sequential(*(EncoderBlock(64, 4) for _ in range(4))).to(device)
blocks.load_state_dict(shipped.blocks.state_dict())


@torch.no_grad()
def percent():
    logits = shipped.head(shipped.pool(shipped.norm(blocks(shipped.embed(unseen.images)))))
    return 100 * (logits.argmax(dim=1) == unseen.labels).float().mean().item()


print(f"all branches: {percent():.1f} % of {len(unseen)} read rightly")
silenced = []
for kind in ("attn", "mlp"):
    silenced.append([])
    for block in blocks:
        hook = getattr(block, kind).register_forward_hook(lambda module, inputs, out: torch.zeros_like(out))
        silenced[-1].append(percent())
        hook.remove()
alt = "Accuracy of the shipped network with one branch silenced: two kinds of branch, four blocks"
plot.heat(silenced, xlabel="block with a silent branch", ylabel="", label="% read rightly", alt=alt,
          xticks=["1", "2", "3", "4"], yticks=["attention", "perceptron"], annotate=True)  # fmt: skip

# %% [markdown] hints="vit.EncoderBlock.forward"
# idea: Add to x what a branch makes of the normalised x; do it twice.
# pseudo-code: x = x + attn(norm1(x)); return x + mlp(norm2(x)).
# most common error: `x = norm1(x)` on a line of its own. Then the sum carries the normalised tokens, and what x was is gone.

# %% [markdown]
# ## Why patches, and not pixels?
#
# A branch that is hardly missed is no proof that training did without it (compare lesson 3's skips). What a block costs is certain. Lesson 4 counted: $12\,N D^2$ multiply-adds in the linear layers, $2\,N^2 D$ in the pairs. The second grows with the *square* of the sentence, and catches up with the first at $N = 6D$.
#
# Now measured, for one block of width 64 and eight sentences. Beneath the figure, ViT-B on a picture of 224 × 224, by size of patch; nothing is computed on the `meta` device.

# %% name="cost"
lengths, block = (16, 64, 256, 1024), EncoderBlock(64, 4).to(device).eval()
cost = {"multiply-adds": [], "seconds": [], "tokens": [n / lengths[0] for n in lengths]}
for tokens in lengths:
    x, tries = torch.randn(8, tokens, 64, device=device), []
    cost["multiply-adds"].append(count_macs(block, x))
    for _ in range(budget.choose(smoke=4, laptop=12)):
        start = time.perf_counter()
        with torch.no_grad():
            block(x).sum().item()  # waits for a GPU
        tries.append(time.perf_counter() - start)
    cost["seconds"].append(min(tries))
    print(f"{tokens:5} tokens {cost['multiply-adds'][-1] / 1e6:9.1f} M multiply-adds {1000 * min(tries):8.2f} ms")
times = {name: [value / found[0] for value in found] for name, found in cost.items()}
labels = {"xlabel": "tokens in a sentence", "ylabel": "times as much as for 16 tokens"}
alt = "Multiply-adds and seconds of a block for 16 to 1024 tokens: both grow faster than the tokens in the end"
plot.lines(lengths, times, **labels, logx=True, logy=True, alt=alt)

for p in (32, 16, 8, 4, 1):
    with torch.device("meta"):
        config = ViTConfig.base(patch_size=p)
        macs, tokens = count_macs(type(shipped)(config), torch.empty(1, 3, 224, 224)), config.grid**2 + 1
    pairs = config.depth * 2 * tokens**2 * config.hidden_size / macs
    print(f"patches of {p:2}: {tokens:6,} tokens {macs / 1e9:9,.1f} G multiply-adds, {pairs:4.0%} of them in pairs")
revisit("vit.q3")

# %% [markdown] exercise_card="vit.ViT.embed"
# ## Where does a word stand? (Exercise 5.6 · `ViT.embed`)
#
# Seconds follow the arithmetic only roughly: a short sentence pays a fixed price for each call. And read the last column before you repeat that transformers are expensive because attention is quadratic. With patches of 16 × 16, ViT-B's pairs are a small part of the bill; with a token for each pixel they would be nearly all
# of it. That is what patches are for.
#
# Now the missing order. ViT *adds* to each token a vector that belongs to its place: $x_n \leftarrow x_n + e_n$. The table `pos_embed` is learned like any weight, or filled with sines and cosines once and for all (lesson 6 writes those). And one learned token, the class token, joins in front, so that
# somebody may ask all patches without being one.
#
# **Your turn.** Below is the whole network. In `embed`, after the refusal of wrong shapes: patches to tokens; the class token in front, where there is one; the table on top, where there is one.
#
# The check's cell loads the shipped weights into your network, asks the skeleton a last time, and deals the patches of each unseen digit anew.

# %% exercise="vit.ViT.embed"
from lesson_lib.vit import ViT

# %% name="check-embed"
ViT = check("vit.ViT.embed", ViT)
mine = ViT(shipped.config).to(device).eval()
mine.load_state_dict(shipped.state_dict())
with torch.no_grad():
    print(f"yours with the shipped weights: difference {(mine(ten) - shipped(ten)).abs().max():.1e}")
ask(embed=mine.embed, mix=nn.Sequential(*mine.blocks))


def shuffled(images):
    words = patchify(images, 2)
    order = torch.rand(words.shape[:2], generator=budget.generator(5), device=device).argsort(dim=1)
    words = words.gather(1, order[..., None].expand_as(words))
    return rearrange(words, "b (height width) (c p1 p2) -> b c (height p1) (width p2)", height=4, p1=2, p2=2)


report("as they are", mine)
report("patches dealt anew", mine, shuffled(unseen.images))
blind = copy.deepcopy(mine)
blind.pos_embed.data.zero_()
report("table of places erased", blind)
with torch.no_grad():
    titles = [f"read as {k}" for k in mine(shuffled(ten)).argmax(dim=1)]
rows = {"dealt anew": shuffled(ten), "whole": ten}
plot.sample_rows(rows, column_titles=titles, alt="Ten digits with their patches dealt anew, and whole")

# %% [markdown] hints="vit.ViT.embed"
# idea: The table has a row for the class token, its first: so the token joins before the table is added.
# pseudo-code: keep the refusal; x = patch_embed(images); if there is a class token, expand it to the batch and join it in front along dim 1; if there is a table, add it.
# most common error: `if self.cls_token:` asks whether a tensor is true. Ask whether it is not None.

# %% [markdown] exercise_card="vit.pool_bug"
# ## Which word is the answer? (Exercise 5.7 · find the bug)
#
# The third yes. The titles are what the network reads in the dealt digits: without their places, words are worth little to a network that learned with them.
#
# A student wrote `pool` from memory. The network trains, so nothing seemed wrong. Then the shipped weights came, for digits (`pool="cls"`). Run the next cell without reading it.
#
# **Your turn.** Below it stands the student's class; `pool` should return the one vector that stands for the sentence: the class token where there is one, otherwise the mean over all patches. Mend it in place. The check's cell then reads the answer off each patch's token, as if it were the class token.


# %% name="symptom" cellView="form"
class Student(ViT):
    def pool(self, x):
        return x[:, -1] if self.config.pool == "cls" else x[:, 1:].mean(dim=1)


student = Student(shipped.config).to(device).eval()
student.load_state_dict(shipped.state_dict())
report("shipped", shipped)
report("the student's, same weights", student)

# %% exercise="vit.pool_bug"
from lesson_lib.vit import ViT

# %% name="check-pool-bug"
ViT = check("vit.pool_bug", ViT)
mine = ViT(shipped.config).to(device).eval()
mine.load_state_dict(shipped.state_dict())
report("yours", mine)
with torch.no_grad():
    tokens = mine.norm(nn.Sequential(*mine.blocks)(mine.embed(unseen.images)))
    found = (mine.head(tokens[:, 1:]).argmax(dim=2) == unseen.labels[:, None]).float().mean(dim=0)
alt = "Accuracy where the answer is read off each of sixteen patches: far below that of the class token"
sides = {"xticks": "1234", "yticks": "1234", "xlabel": "column of the patch", "ylabel": "row"}
plot.heat(100 * found.view(4, 4), **sides, label="% read rightly", alt=alt)

# %% [markdown] hints="vit.pool_bug"
# idea: Two lines, two habits from other networks. Ask for each line which token it leaves out, and why.
# pseudo-code: the first token where the class token is there; otherwise the mean over axis 1, of all.
# most common error: mending one of the two. The shipped digits only run through the first.

# %% [markdown]
# ## Is it the public network?
#
# The class token is not special by nature, only by training: its row of the last map is the one that the head has learned to read.
#
# First the network, drawn from the module. Then the published sizes for 224 × 224 and 1000 classes, with the weights that timm counts and those of ViT's Table 1 (Ti and S came later). Last, transformers' ViT with the same weights as ours, every tensor random.

# %% name="assemble"
alt = "The network from the module: patch embedding, four blocks, a norm and a head"
diagrams.network_diagram(mine, ten[:1], alt=alt)
published = {  # name: configuration, weights in timm, weights in the paper
    "Ti/16": (ViTConfig.tiny(), "5,717,416", ""),
    "S/16": (ViTConfig.small(), "22,050,664", ""),
    "B/32": (ViTConfig.base(32), "88,224,232", ""),
    "B/16": (ViTConfig.base(), "86,567,656", "86 M"),
    "L/16": (ViTConfig.large(), "304,326,632", "307 M"),
    "L/32": (ViTConfig.large(32), "", "307 M"),
    "H/14": (ViTConfig.huge(), "", "632 M"),
}
print(f"{'':8}{'tokens':>7}{'weights':>14}{'timm':>14}{'Table 1':>9}{'multiply-adds':>16}")
for name, (config, timm, told) in published.items():
    with torch.device("meta"):
        net = ViT(config)
        macs = count_macs(net, torch.empty(1, 3, 224, 224))
    weights = sum(weight.numel() for weight in net.parameters())
    print(f"{name:8}{config.grid**2 + 1:>7}{weights:>14,}{timm:>14}{told:>9}{macs / 1e9:>14.2f} G")
print("\n" + str(parity("vit")))

# %% [markdown]
# Where timm has a number, it is ours. Table 1 names no patch size; its 307 M is L/32's. And read B/32 against B/16: the smaller patch changes the weights by little and the work by a factor.
#
# ## What does each head ask?
#
# Turn the dial: it chooses who asks, the class token or a patch, and the maps are those of your network. Rows are blocks, columns heads.

# %% name="dial"
seen = [shares[0] for shares in mine.attention_maps(ten[2:3])]  # for each block (heads, 17, 17)


def draw(patch):
    row, asking = (0, None) if patch == "class" else (patch + 1, patch)
    with plot.figure(alt=f"Whom {patch} asks: four blocks, four heads", height=2.9) as fig:
        for block, line in enumerate(fig.subplots(4, 4)):
            line[0].set_ylabel(f"block {block + 1}")
            for head, axes in enumerate(line):
                over(axes, ten[2], seen[block][head, row, 1:], asking, "" if block else f"head {head + 1}")


alt = "Whom six tokens of a 2 ask, in all blocks and heads"
widgets.slider(draw, ["class", *range(16)], label="asking patch", alt=alt, width=plot.WIDTH / 3)
places = torch.cartesian_prod(torch.arange(4.0), torch.arange(4.0)).to(device)
steps = torch.cdist(places, places)
reach = [(shares[:, :, 1:, 1:] * steps).sum(dim=3) / shares[:, :, 1:, 1:].sum(dim=3)
         for shares in mine.attention_maps(unseen.images)]  # fmt: skip
for block, found in enumerate(reach, 1):
    print(f"block {block}, mean distance asked:", *(f"{head:.2f}" for head in found.mean(dim=(0, 2))), "patches")
print(f"if all patches were asked alike: {steps.mean():.2f}")

# %% [markdown]
# A convolution asks its neighbours, always. These heads ask by content. ViT's Figure 7 finds heads that look near and heads that look far in its first blocks; compare the distances above with the last line before you look for neighbours here. A map also says whom a token asked, not what it made of the
# answer.
#
# ## Can you train it yourself?
#
# Your network, on real digits. The budget decides how long; the shipped one learned for longer.

# %% name="train"
torch.manual_seed(0)
model, steps = ViT(ViTConfig.digits()).to(device), budget.choose(smoke=3, laptop=700, gpu=3000)
recipe = {"lr": 1e-3, "weight_decay": 0.05, "warmup": 50, "ema": 0.99}
record = fit(model, (known.images, known.labels), classification_loss, steps=steps, cooldown=steps // 2, **recipe)
print(f"{len(known)} pictures, {record.steps} steps, {record.seconds:.0f} s, {record.images_per_second:.0f} pictures/s")
print(f"peak memory {record.peak_memory_mb:.0f} MB on {record.device}; budget: {budget.name}")
plot.losses(record, alt="Training loss of your ViT on digits", logy=True)
report("yours", model)
report("shipped", shipped)
with torch.no_grad():
    belief = model(unseen.images).softmax(dim=1)
worst = belief.gather(1, unseen.labels[:, None])[:, 0].argsort()[:8]
titles = [f"{unseen.labels[i]} read as {belief[i].argmax()}" for i in worst.tolist()]
alt = "The eight unseen digits in whose true class your network believes least"
plot.sample_grid(unseen.images[worst], titles=titles, alt=alt)

# %% [markdown]
# The same class reads clothes, in more and larger patches, pooled by the mean (`ViTConfig.fashion`). At the gpu budget it trains here on Fashion-MNIST; otherwise you see the recorded quality of the shipped one.

# %% name="fashion"
steps, clothes, config = budget.choose(smoke=0, laptop=0, gpu=3000), None, ViTConfig.fashion()
try:
    splits = ("train", "test") if steps else ()
    clothes = [hub("fashion_mnist", split, size=config.image_size).to(device) for split in splits]
except OSError as problem:
    print(f"Fashion-MNIST is not at hand: {problem}")
print(f"{config.image_size}×{config.image_size} pixels, {config.grid**2} patches, pool={config.pool!r}")
if not clothes:
    card = (DATA / "checkpoints" / "README.md").read_text(encoding="utf-8").split("## vit-fashion.safetensors")[1]
    print("shipped, recorded:", card.split("**Quality.** ")[1].splitlines()[0])
else:
    (train, test), tailor = clothes, ViT(config).to(device)
    work = {"steps": steps, "cooldown": steps // 2, "batch_size": 128}
    story = fit(tailor, (train.images, train.labels), classification_loss, **work, **recipe)
    print(f"{len(train)} pictures, {story.seconds:.0f} s, peak memory {story.peak_memory_mb:.0f} MB")
    for name, net in (("yours", tailor), ("shipped", load_vit("vit-fashion", device))):
        share, low, high = results.proportion_interval(right(net, test.images, test.labels), len(test))
        print(f"{name:8}{share:6.1%} of {len(test):,} test pictures   95 % interval [{low:.1%}, {high:.1%}]")
    titles = [train.class_names[k] for k in tailor(test.images[:8]).argmax(dim=1)]
    plot.sample_grid(test.images[:8], titles=titles, alt="Eight test pictures of clothes and how they are read")

# %% [markdown]
# ## Must a ViT know where its patches lie?
#
# You erased the table of a network that had learned with it. The fair question is what a network loses that trains without one. Recorded, all else equal, seeds paired.

# %% name="ablation-positions"
table = results.load("vit_positions")
alt = "Accuracy with no places, learned places and fixed sines and cosines, one dot a seed, with intervals"
plot.intervals(table, "accuracy", better="higher", xlabel="share of unseen digits read rightly", alt=alt)
print(f"{table.configuration['steps']} steps a run, {len(table.seeds)} seeds")
print(results.verdict(table, "accuracy", better="higher"))
revisit("vit.q1")

# %% [markdown]
# ViT asked the same at full size (Table 8, App. D.4: ViT-B/16, 5-shot linear accuracy on ImageNet; we read the table in copies):
#
# | no positions | 1-D, learned | 2-D, learned | relative |
# |---|---|---|---|
# | 0.614 | 0.642 | 0.640 | 0.640 |
#
# Both times the step is from none to some. Its height differs, and may well: a patch of 16 × 16 colour pixels shows an eye or a wheel wherever it lies; four grey pixels say little without their place. Whether *which* table matters is for the verdict to say. So tell the tokens where they stand, and do not expect
# miracles from how.
#
# ## What does it cost to take nothing for granted?
#
# A convolution is told before training that neighbours belong together and that a stroke is a stroke anywhere. A ViT learns both, from pictures. The plot of the first cell again, in words.

# %% name="ablation-data"
for name, net in (("convolutional", ConvClassifier()), ("ViT", ViT(ViTConfig.digits()))):
    print(f"{name}: {sum(weight.numel() for weight in net.parameters()):,} weights", end="   ")
print(f"\n{growth.configuration['steps']} steps a run, {len(growth.seeds)} seeds\n")
for count in growth.x["values"]:
    print(results.verdict(growth, "accuracy", better="higher", at=count))
print()
revisit("vit.q2")

# %% [markdown]
# Read the differences from left to right. Then mind the set-up: every run has equally many *steps*, and the shipped ViT, which took more of them on the same pictures, reads more than the ViT at the right end; part of that last gap is training, not data. The two networks differ in size, neither was tuned, and nothing was
# augmented. ViT's Figures 3 and 4 tell this story with a sequel that our few digits cannot show: pre-trained on little, residual networks lead; they level off sooner, and on hundreds of millions of pictures the large ViTs are ahead. What is taken for granted is worth most where pictures are few.
#
# ## What did they break?
#
# Three students trained a ViT on digits. Run the next cell without reading it. From the curves, the shares, and what happens to digits with their patches dealt anew: what did A, B and C do?

# %% name="break-it-run" cellView="form"
work = budget.choose(smoke=3, laptop=300, gpu=1000)


def learn(config, loss):
    torch.manual_seed(0)
    net = ViT(config).to(device)
    return net, fit(net, (known.images, known.labels), loss, steps=work, batch_size=32, cooldown=work // 2,
                    **recipe | {"lr": 2e-3}, progress=False)  # fmt: skip


def twice(model, batch, generator):
    return F.cross_entropy(model(batch[0]).softmax(dim=1), batch[1])


(sound, first), (a, second), (b, third) = (
    learn(ViTConfig.digits(), classification_loss),
    learn(replace(ViTConfig.digits(), positions="none"), classification_loss),
    learn(ViTConfig.digits(), twice),
)
c = copy.deepcopy(sound)
c.pos_embed.data[:, 1:] = rearrange(sound.pos_embed.data[:, 1:], "b (height width) d -> b (width height) d", width=4)
curves = {"sound, and C": first, "A": second, "B": third}
plot.losses(curves, alt="Loss curves: the sound one falls to near zero, A's stays above it, B's levels off high up")
for name, net in {"sound": sound, "A": a, "B": b, "C": c}.items():
    report(name, net)
    report(f"{name}, patches dealt anew", net, shuffled(unseen.images))

# %% [markdown]
# <details><summary>A</summary>
#
# No table of places (`positions="none"`). A reads dealt digits exactly as well as whole ones, the signature of a network that sees a set. What it does read comes from *which* patches a digit has.
# </details>
# <details><summary>B</summary>
#
# A softmax before a loss that takes one itself. Its input now lies between 0 and 1, so even a perfect answer costs $-\log\frac{e}{e + 9} \approx 1.46$, and the gradient is faint. B may read decently all the same; only the level of the curve gives it away.
# </details>
# <details><summary>C</summary>
#
# The sound network, loaded by code whose table of places runs down the columns. Every weight fits, the loss was fine, and each patch but those on the diagonal is told another's place. (The reference code of DiT's table does put the column first; lesson 6 meets it.)
# </details>
#
# A shows in the curve and in the share, B in the curve, C in the share alone: look at both. In your own words:

# %% name="in-words"
prose("vit.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | what differs from yours |
# |---|---|
# | google-research/vision_transformer, `vit_jax/models_vit.py` | the paper's own: Flax's LayerNorm (eps 1e-6) and its GELU, which is the tanh one unless told otherwise; `query`, `key`, `value` as three weights; head starts at zero |
# | huggingface/pytorch-image-models (timm), `timm/models/vision_transformer.py` | your layout, name for name; eps 1e-6, exact GELU |
# | huggingface/transformers, `models/vit/modeling_vit.py` | three layers for q, k, v; eps 1e-12; exact GELU; a pooler with tanh that classification does not use |
# | facebookresearch/DiT, `models.py` | timm's patches, attention and perceptron, with tanh GELU; fixed places; no class token |
#
# "GELU" and "LayerNorm" thus name several functions. How far apart are they? The shipped network, run in each dialect:

# %% name="dialects"
with torch.no_grad():
    before = shipped(unseen.images)
    for name, eps, gelu in (
        ("Flax, DiT: tanh GELU", 1e-6, "tanh"),
        ("PyTorch's eps 1e-5", 1e-5, "none"),
        ("transformers' eps 1e-12", 1e-12, "none"),
    ):
        other = copy.deepcopy(shipped)
        for part in other.modules():
            if isinstance(part, nn.LayerNorm):
                part.eps = eps
            if hasattr(part, "approximate"):
                part.approximate = gelu
        after = other(unseen.images)
        turned = (after.argmax(dim=1) != before.argmax(dim=1)).sum()
        print(f"{name:25} logits differ by up to {(after - before).abs().max():.1g}; {turned} answers change")

# %% [markdown]
# Too little for an accuracy to notice, and far above the 1e-5 of a parity test. That is why ours sets them before it compares.
#
# ## What have you got now?
#
# * A patch is a word, and a strided convolution writes the sentence. Its length decides the bill: linear layers by $N$, pairs by $N^2$.
# * Attention reads a set. Places are added, and a class token asks for the answer.
# * What a ViT does not take for granted it must learn from pictures. How many that takes is a measurement, for one size and one data set.
#
# So an image can be a sentence, if somebody numbers the words and there is enough to read. In lesson 6 the same blocks write pictures.
#
# From now on you can import `lesson_lib.vit`, `attention.attention_map` and `attention.SelfAttention`. Three references:
#
# * Dosovitskiy and others, *An image is worth 16x16 words* (arXiv 2010.11929): §3.1, Table 8, Figures 3, 4 and 7.
# * Vaswani and others, *Attention is all you need* (arXiv 1706.03762), §3.2: queries, keys, values, and the root of $d$.
# * Touvron and others, *DeiT* (arXiv 2012.12877): a ViT from ImageNet alone, by augmentation and a teacher; where S and Ti come from.

# %% name="score"
score("05")
