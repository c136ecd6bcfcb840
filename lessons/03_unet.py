# %% [markdown] title_card="03"
# # 3 · Why did the U rule for seven years?
#
# *A denoiser must know two things about every pixel: what the whole picture shows, and on which side of an edge this pixel lies. A coarse view answers the first, only full resolution the second. A U-Net keeps both. Seven years lie
# between the first one (2015) and the transformer that took its place (DiT, end of 2022); DDPM, ADM, Stable Diffusion 1.5 and SDXL are U-Nets. Which of its parts does the work?*

# %% name="setup" lesson="03"
from lesson_lib.setup import start_lesson

budget = start_lesson("03")

# %% name="imports"
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lesson_lib import diagrams, plot, results, samplers, widgets
from lesson_lib.data import COLOURS, SHAPES, digits, hub, shapes
from lesson_lib.evaluate import class_accuracy, count_macs, load_judge, prompt_accuracy, receptive_side
from lesson_lib.exercises import check, predict, prose, revisit, score
from lesson_lib.experiments.receptive_field import network_of
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.guidance import Guided
from lesson_lib.official.parity import parity
from lesson_lib.train import denoising_loss, fit
from lesson_lib.unet import TIME_WAYS, UNetConfig

device = budget.device
recipe = {"lr": 2e-3, "warmup": 50, "ema": 0.99}  # of every training below

# %% [markdown]
# ## What does a network miss without its skips?
#
# First, what a shipped U-Net draws at 16 × 16. Then the plot of this lesson: five small U-Nets, trained alike. *Skips* carry maps from the way down straight across to the way up; in four of the five, some of them carried zeros
# from the first step on.
#
# By the end you can write every line of such a network, and say what this plot shows and what it does not. After it come three guesses.

# %% name="picture-first"
shipped, flow = load_shipped("unet-shapes", device)
eight = torch.tensor([0, 5, 10, 15, 16, 21, 2, 7], device=device)  # colour * 4 + shape
noise = torch.randn(16, 3, 16, 16, generator=budget.generator(1), device=device)


def sample(model, labels, start, scale=2.0):
    steps = budget.choose(smoke=3, laptop=16, gpu=32)
    return samplers.euler(Guided(model, labels, scale), start, steps, flow).clamp(-1, 1)


names = [f"{COLOURS[k // 4]} {SHAPES[k % 4]}" for k in eight.tolist()]
rows = {f"noise {i + 1}": sample(shipped, eight, part) for i, part in enumerate(noise.split(8))}
plot.sample_rows(rows, column_titles=names, alt="Eight classes of shapes, drawn twice by the shipped U-Net")

skips, lower = results.load("unet_skips"), {"better": "lower"}
label, alt = "FD-judge: distance to real pictures", "FD-judge of five U-Nets with and without skips, with intervals"
plot.intervals(skips, "fd_judge", xlabel=label, alt=alt, **lower)
print(results.verdict(skips, "fd_judge", **lower))

# %% name="guesses"
predict("unet.q1")
predict("unet.q2")
predict("unet.q3")

# %% [markdown]
# ## What must reach every pixel?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $h$ | `h` | `(B, C, H, W)` | features; one such tensor is a *map* |
# | $e$ | `emb` | `(B, D)` | time and class as one vector (lesson 2) |
# | $\phi$ | `F.silu` | any | swish, $\phi(x) = x\,\sigma(x)$ |
# | $\gamma, \beta$ | `scale, shift` | `(B, C)` | what $e$ does to each channel |
# | $r$ | `r` | as the result | *branch*: what a block adds to its shortcut |
# | level | `level` | a number | 0 is the finest; each further one has half the resolution |
# | kept | `kept` | list of maps | what the way down (encoder) leaves for the way up (decoder) |
#
# Here is the U with dummies for its three kinds of parts. A test watches the output's top left pixel: does it hear the time? Does a change in the far corner reach it? Does it notice when two neighbours in the input
# change places?


# %% name="skeleton"
def u_pass(x, emb, block, attend, join, say):
    """Go down three levels and up again: one block a level down, two up, attention at the bottom."""
    kept = [say("enter", block(x, emb, 16))]
    for width in (16, 32, 64):
        if width > 16:
            kept.append(say("halve", F.avg_pool2d(kept[-1], 2)))
        kept.append(say("block", block(kept[-1], emb, width)))
    h = say("attend", attend(kept[-1]))
    for width in (64, 32, 16):
        if width < 64:
            h = say("double", F.interpolate(h, scale_factor=2))
        for _ in range(2):
            h = say("join, block", block(join(h, kept.pop()), emb, width))
    return h[..., 0, 0]


def mix(h, emb, width):  # a dummy: fixed random sums of channels, deaf to the time
    weight = torch.randn(width, h.shape[1], generator=torch.Generator().manual_seed(h.shape[1]))
    return torch.einsum("oc,bchw->bohw", weight / h.shape[1] ** 0.5, h)


def forget(h, skip):  # a dummy: room for the kept map, but nothing in it
    return torch.cat([h, torch.zeros_like(skip)], dim=1)


@torch.no_grad()
def ask(block=mix, attend=lambda h: h, join=forget, say=lambda name, h: h):
    """Turn three knobs and say which of them moves the output's top left pixel."""
    g = torch.Generator().manual_seed(0)
    x, emb = torch.randn(1, 3, 16, 16, generator=g), torch.randn(1, 8, generator=g)
    corner, swapped = x.clone(), x.clone()
    corner[..., 15, 15] += 1
    swapped[..., 0, :2] = x[..., 0, :2].flip(-1)
    before, answers = u_pass(x, emb, block, attend, join, say), []
    for knob, given in {"time": (x, emb + 1), "far corner": (corner, emb), "neighbours": (swapped, emb)}.items():
        after = u_pass(*given, block, attend, join, say=lambda name, h: h)
        answers.append(f"{knob}: {'no' if torch.allclose(before, after, atol=1e-5) else 'yes'}")
    print("   ".join(answers))


def say(name, h):
    print(f"{'':{10 * (16 // h.shape[2] // 2)}}{name:12}{h.shape[1]:3} × {h.shape[2]}×{h.shape[3]}")
    return h


ask(say=say)

# %% [markdown]
# Three times no. `block`, `attend` and `join` will each change an answer.
#
# ## Where was the U before diffusion?
#
# Ronneberger and others labelled every pixel of an image. Their idea: halve the resolution until the whole fits into a few pixels, and hand what is lost on the way straight across. DDPM kept this shape and changed nearly everything else:
#
# | | U-Net, 2015 (§2, Fig. 1) | DDPM, CIFAR-10 (`diffusion_tf/models/unet.py`) |
# |---|---|---|
# | a level | two 3×3 convolutions, ReLU | 2 residual blocks down, 3 up; GroupNorm, swish |
# | borders | unpadded: 572² in, 388² out | padded: the size stays |
# | halve, double | 2×2 max-pool; 2×2 up-convolution | strided convolution; repeat pixels, then convolve |
# | skips | one map a level, cropped | the map after *every* block and halving |
# | time, attention | neither | time in every block; attention at 16×16 and in the middle |
#
# The first figure shows the loss: the last column is what 4 × 4 pixels leave out. The second is the shipped network, drawn from the module itself.

# %% name="what-is-lost"
data = shapes(budget.choose(smoke=400, laptop=8000), size=16, seed=3, device=device)
rows = {}
for i in (0, 1, 3):
    picture = data.images[i : i + 1].cpu()
    coarse = [F.interpolate(F.avg_pool2d(picture, side), scale_factor=side) for side in (2, 4, 8)]
    rows[f"picture {i}"] = torch.cat([picture, *coarse, (picture - coarse[1]) / 2])
titles = ["16×16", "8×8", "4×4", "2×2", "first less third"]
plot.sample_rows(rows, column_titles=titles, alt="Three pictures at four resolutions, and what 4×4 pixels leave out")
diagrams.unet_diagram(
    shipped, size=16, alt="The shipped U-Net: three levels down, a middle, three levels up with skips"
)

# %% [markdown]
# ## How does a block hear the time?
#
# You now write the boxes of that diagram, from the inside out. GroupNorm takes each picture alone, sorts its channels into groups, and brings each group, over its channels and places, to mean 0 and variance 1; then every channel gets a learned stretch and shift. DDPM adds the time right
# before such a norm:

# %% source="unet.AddThenNorm"
from lesson_lib.unet import AddThenNorm

# %% [markdown] exercise_card="unet.AdaGN.forward"
# ### Exercise 3.1 · `AdaGN.forward`
#
# What is added before a norm, the norm may take out again. ADM lets the time speak *after* the norm, and multiply:
#
# $$ \mathrm{AdaGN}(h, e) = \mathrm{GroupNorm}(h) \odot (1 + \gamma(e)) + \beta(e) $$
#
# **Your turn.** `self.project` reads `F.silu(emb)` and gives `2C` numbers a picture: first the scales, then the shifts (DiT has them the other way round). `h` is `(B, C, H, W)`, and so is the result.
#
# The check's cell takes the three colours of a picture as one group of features and tells both layers a number $v$.

# %% exercise="unet.AdaGN.forward"
from lesson_lib.unet import AdaGN

# %% name="check-adagn"
AdaGN = check("unet.AdaGN.forward", AdaGN)
TIME_WAYS["adagn"] = AdaGN  # the library's table of both ways: from here on, blocks are built with yours


@torch.no_grad()
def told(layer, numbers):  # what a layer makes of a picture when its projection says these numbers
    layer.project.weight.zero_()
    layer.project.bias.copy_(torch.tensor(numbers))
    return layer(data.images[1:2].cpu(), torch.zeros(1, 1)) / 2


values, add, ada = [-1.0, -0.5, 0.0, 0.5, 1.0], AddThenNorm(3, 1, groups=1), AdaGN(3, 1, groups=1)
rows = {
    "add v to all": torch.cat([told(add, [v] * 3) for v in values]),
    "add v to red": torch.cat([told(add, [v, 0, 0]) for v in values]),
    "AdaGN, scale v": torch.cat([told(ada, [v] * 3 + [0] * 3) for v in values]),
    "AdaGN, shift v": torch.cat([told(ada, [0] * 3 + [v] * 3) for v in values]),
}
alt = "A picture that is told v in four ways: adding to all channels changes nothing, scale -1 erases it"
plot.sample_rows(rows, column_titles=[f"v = {v:g}" for v in values], alt=alt)

# %% [markdown] hints="unet.AdaGN.forward"
# idea: lesson 2's FiLM behind a GroupNorm.
# pseudo-code: split project(silu(emb)) into two halves along the channels; give each two axes of length one; norm(h) times one plus scale; plus shift.
# most common error: taking shift first. Both orders exist, both train, and weights of one are useless in the other.

# %% [markdown] exercise_card="unet.ResBlock.forward"
# ## What does a block do before it has learned anything? (Exercise 3.2 · `ResBlock.forward`)
#
# In the first row above, the norm removed everything that was added. Adding can move the channels of a group against one another; AdaGN can also switch one off. Which of the two *draws* better is measured below.
#
# Both sit inside a **residual block**, which is written as a correction to its input:
#
# $$ r = W_2\,\phi\big(\mathrm{norm}_2(W_1\,\phi(\mathrm{norm}_1(h)),\, e)\big), \qquad \mathrm{out} = S h + r $$
#
# $W_1, W_2$ are 3×3 convolutions; $S$ is the identity, or a 1×1 convolution where the channels change. $W_2$ starts at **zero** (DDPM's `init_scale=0`), so at step 0 there is no correction.
#
# **Your turn.** The branch: `norm1`, SiLU, `resample`, `conv1`; `norm2`, SiLU, `dropout`, `conv2`. `norm2` takes `emb` as well, unless `emb` is `None`. The shortcut starts from the *resampled* `h` (ADM's blocks may halve or double; otherwise `resample` does nothing).
#
# The check's cell stacks 30 fresh blocks, with the zero and without, and asks the skeleton again.

# %% exercise="unet.ResBlock.forward"
from lesson_lib.unet import ResBlock

# %% name="check-resblock"
ResBlock = check("unet.ResBlock.forward", ResBlock)


def awake(module):  # gives random numbers to the layers that start at zero
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.reset_parameters()
    return module


spreads = {"last convolution zero": [1.0], "PyTorch's usual start": [1.0]}
for found, prepare in zip(spreads.values(), (lambda block: block, awake), strict=True):
    torch.manual_seed(0)
    h = torch.randn(4, 32, 16, 16)
    for _ in range(30):
        with torch.no_grad():
            h = prepare(ResBlock(32, 32, groups=8))(h)
        found.append(float(h.std()))
alt = "Spread of the features after 0 to 30 fresh blocks: level with the zero, growing without"
plot.lines(range(31), spreads, xlabel="blocks passed", ylabel="standard deviation of the features", alt=alt)


def real_block(h, emb, width, prepare=awake):
    torch.manual_seed(width)
    return prepare(ResBlock(h.shape[1], width, 8, time_way="adagn", groups=1))(h, emb)


print("fresh      ", end="")
ask(block=lambda h, emb, width: real_block(h, emb, width, prepare=lambda block: block))
print("awakened   ", end="")
ask(block=real_block)

# %% [markdown] hints="unet.ResBlock.forward"
# idea: two times the same three moves (norm, SiLU, convolution), then one addition.
# pseudo-code: r = conv1(resample(silu(norm1(h)))); r = norm2(r, emb), or norm2(r) without emb; r = conv2(dropout(silu(r))); return shortcut(resample(h)) + r.
# most common error: writing `h = …` along the branch. Then the shortcut carries normalised features, and the block cannot leave its input alone.

# %% [markdown] exercise_card="unet.AttentionBlock.forward"
# ## Who asks whom? (Exercise 3.3 · `AttentionBlock.forward`)
#
# At step 0 a block is its shortcut, and a fresh U-Net is deaf on purpose; depth costs it nothing. Awake, blocks answer more than the time: convolutions mix neighbours, and norms tie distant pixels a little.
#
# A 3×3 convolution sees neighbours. **Attention** lets each pixel of a map ask all of them at once: lesson 2's cross-attention, where the tokens are the picture's own pixels. The price is $(HW)^2$ pairs, sixteen times as many at twice the side; hence "attention at low resolution".
#
# **Your turn.** Normalise `h` `(B, C, H, W)`; read it as a sequence of pixels `(B, H·W, C)`; ask `self.attention`; fold the answer back and add it to `h`. The last layer starts at zero here too; the check's cell awakens it.

# %% exercise="unet.AttentionBlock.forward"
from lesson_lib.unet import AttentionBlock

# %% name="check-attention"
AttentionBlock = check("unet.AttentionBlock.forward", AttentionBlock)
torch.manual_seed(0)
ask(attend=awake(AttentionBlock(64, num_heads=4)))

# %% [markdown] hints="unet.AttentionBlock.forward"
# idea: attention knows nothing of height and width; it wants a list, and you must restore the order that you took.
# pseudo-code: pixels = "b c height width -> b (height width) c" of norm(h); answer = attention(pixels); back with the mirrored pattern and height = h.shape[2]; add to h.
# most common error: `reshape` instead of `rearrange`. The shapes are right, and channels have become places.

# %% [markdown]
# The corner arrives. What do *trained* weights ask? The shipped network looks at two noisy pictures; its middle attention works on 4 × 4 pixels. For one asking pixel (framed), its row of the softmax of $qk^\top/\sqrt d$ in each of four heads, laid over
# the picture:

# %% name="attention-row"
chosen, given = [1, 3], torch.full((2,), 0.2, device=device)
noisy, _ = flow.training_pair(data.images[chosen], noise[:2], given)
given = noisy, flow.model_time(given), data.labels[chosen]
middle, heard = shipped.middle1.attention.attention, {}
hook = middle.register_forward_pre_hook(lambda module, inputs: heard.update(pixels=inputs[0]))
with torch.no_grad():
    shipped(*given)
    query, key, _ = middle.qkv(heard["pixels"]).unflatten(2, (3, middle.num_heads, -1)).permute(2, 0, 3, 1, 4)
    weights = (query @ key.mT / query.shape[-1] ** 0.5).softmax(dim=-1).cpu()  # (picture, head, asking, asked)
hook.remove()
frame_x, frame_y = torch.tensor([0, 1, 1, 0, 0]), torch.tensor([0, 0, 1, 1, 0])
with plot.figure(alt="Attention of one pixel in four heads, over two noisy pictures", height=3.9) as fig:
    for picture, rows_of, line in zip(noisy.cpu(), weights, fig.subplots(2, 5), strict=True):
        shown = (picture.clamp(-1, 1) + 1).permute(1, 2, 0) / 2
        asking = int(F.avg_pool2d((shown - shown.mean((0, 1))).abs().sum(2)[None], 4).argmax())
        for head, axes in enumerate(line):
            axes.imshow(shown.mean(2) if head else shown, cmap="gray", extent=(0, 4, 4, 0))
            if head:
                row = rows_of[head - 1, asking].view(4, 4)
                axes.imshow(row, cmap="inferno", vmin=0, alpha=0.7, extent=(0, 4, 4, 0))
                axes.set_title(f"head {head}: {row.min():.2f} to {row.max():.2f}", size=8)
            axes.plot(asking % 4 + frame_x, asking // 4 + frame_y, color="#56B4E9", linewidth=2.5)
            axes.set(xticks=[], yticks=[])
            axes.grid(False)

unseen = shapes(200, size=16, seed=77, device=device)
times = (torch.arange(200, device=device) + 0.5) / 200
blurred, target = flow.training_pair(unseen.images, torch.randn_like(unseen.images), times)


@contextmanager
def attention(change):
    """Change the result of every attention block of the shipped network: change(what went in, what came out)."""
    places = [part for part in shipped.modules() if type(part).__name__ == "AttentionBlock"]
    hooks = [part.register_forward_hook(lambda _, inputs, out: change(inputs[0], out)) for part in places]
    yield
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def run(change=lambda h, out: out):  # the velocities of unseen pictures, and the loss
    with attention(change):
        velocity = shipped(blurred, flow.model_time(times), unseen.labels)
    return velocity, (velocity - target).square().mean()


print(
    f"loss on unseen pictures: {run()[1]:.4f} as it is, {run(lambda h, out: h)[1]:.4f} with all attention switched off"
)

# %% [markdown]
# The places depend on the picture, which no convolution can do. But a head that asks is not yet a head that matters: compare the two losses. What attention is worth to a network that *trains* without it is measured below.
#
# ## Which maps wait for the way up?
#
# Down: a 3×3 convolution with stride 2. Up: repeat every pixel, then a 3×3 convolution. Both leave the channels as they are; the next residual block changes them. The encoder keeps every map that it makes:

# %% source="unet.encoder_channels"
from lesson_lib.unet import encoder_channels

# %% [markdown] exercise_card="unet.decoder_channels"
# ### Exercise 3.4 · `decoder_channels`
#
# A block on the way up reads the features so far *and* one kept map, side by side, so its input channels are a sum. With $n$ blocks a level, the encoder keeps $n$ maps a level and one more, which the first convolution or a halving left. Each is read once. So the decoder has **one block more** in
# each level.
#
# **Your turn.** Return `(in_channels, out_channels)` of every residual block of the decoder, in the order of the forward pass: the coarsest level first, the map kept last first. All blocks of a level leave with that level's channels.

# %% exercise="unet.decoder_channels"
from lesson_lib.unet import decoder_channels

# %% name="check-decoder-channels"
decoder_channels = check("unet.decoder_channels", decoder_channels)
widths = UNetConfig.ddpm_cifar10().channels
pairs = list(zip(decoder_channels(widths, 2), encoder_channels(widths, 2)[::-1], strict=True))
for level, side in enumerate((4, 8, 16, 32)):
    here = [f"{a - skip:3} + {skip:3} → {b:3}" for (a, b), skip in pairs[3 * level : 3 * level + 3]]
    print(f"DDPM, {side:2}×{side:<2}   " + "    ".join(here))
print(f"residual blocks: {2 * len(widths)} in the encoder, {len(pairs)} in the decoder")

# %% [markdown] hints="unet.decoder_channels"
# idea: replay the forward pass with numbers in place of maps: a pile of kept widths, and the width of the features in your hand.
# pseudo-code: kept = encoder_channels(…); current = last of channels; for each width from coarse to fine, num_res_blocks + 1 times: note (current + kept.pop(), width); current = width.
# most common error: adding the level's own width twice. At the borders of a level the features still have the coarser width, and the last kept map already the finer.

# %% source="unet.res_block_of"
from lesson_lib.unet import res_block_of

# %% source="unet.attention_of"
from lesson_lib.unet import attention_of

# %% source="unet.Stage"
from lesson_lib.unet import Stage

# %% [markdown] exercise_card="unet.UNet.decode"
# ## How does the way up use them? (Exercise 3.5 · `UNet.decode`)
#
# The three cells above put your parts together: a block as a configuration wants it, attention where a level has some (with words, Stable Diffusion's kind), and a *stage*, the two in a row. Below is the whole network; one method is missing. Read it from `__init__`: lists of parts in the order in which `forward` uses them.
#
# **Your turn.** `self.up` holds stages and upsamplings. Before a **stage**: take the map that was kept last and put it *behind* the features along the channels (`dim=1`). An **upsampling** gets none and leads one level up. Where `self.skips[level]` is `False`, zeros of the
# map's shape stand in. Leave the caller's list as it was.
#
# The check's cell asks the skeleton a last time, runs your network on the shipped weights, and prints how far the library is from diffusers: tiny networks, every tensor random, weights moved across (the recorded differences where diffusers is not installed).

# %% exercise="unet.UNet.decode"
from lesson_lib.unet import UNet

# %% name="check-decode"
UNet = check("unet.UNet.decode", UNet)
ask(join=lambda h, skip: torch.cat([h, skip], dim=1))
mine = UNet(shipped.config).to(device).eval()
mine.load_state_dict(shipped.state_dict())
with torch.no_grad():
    print(f"your network with the shipped weights: difference {(mine(*given) - shipped(*given)).abs().max():.1e}\n")
print("the library against diffusers:", parity("unet"))

# %% [markdown] hints="unet.UNet.decode"
# idea: the kept maps are a pile; the way up takes them off from the top.
# pseudo-code: copy the list; level = the last; for each stage of self.up: if it is a Stage: skip = pop, or zeros like it where this level's skips are off; h = cat of h and skip along dim 1; otherwise level − 1; h = stage(h, emb, context).
# most common error: popping from the caller's own list. It works once; whoever decodes the same maps again gets an IndexError far from the cause.

# %% [markdown] exercise_card="evaluate.input_gradient"
# ## How far does one pixel look? (Exercise 3.6 · `input_gradient`)
#
# On paper every 3×3 convolution adds a ring one pixel wide, a pixel *of its own level*: at level $l$ it is $2^l$ pixels of the picture. Measured: move each input pixel a little and see how much one output pixel moves. That is a gradient; one backward pass gives it for
# all input pixels at once.
#
# **Your turn.** `network` maps `images` `(B, C, H, W)` to `(B, C', H, W)`. Take the output at `(row, column)`, summed over channels; its gradient with respect to the images; absolute values; the sum over input channels; the mean over pictures. Return `(H, W)`. Leave no trace: not on the images, not
# in the weights' `.grad`.
#
# The check's cell uses random weights, no attention, 64 × 64 noise. Above, U-Nets of one to four levels; below, as many residual blocks at full resolution. Brightness is the logarithm of the gradient; the frame holds half of it.

# %% exercise="evaluate.input_gradient"
from lesson_lib.evaluate import input_gradient

# %% name="check-input-gradient"
input_gradient = check("evaluate.input_gradient", input_gradient)


class FixedNorm(nn.Module):  # a GroupNorm whose mean and spread count as constants in the gradient
    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, h):
        groups = h.unflatten(1, (self.norm.num_groups, -1))
        variance, mean = torch.var_mean(groups.detach(), dim=(2, 3, 4), correction=0, keepdim=True)
        h = ((groups - mean) / (variance + self.norm.eps).sqrt()).flatten(1, 2)
        return h * self.norm.weight[:, None, None] + self.norm.bias[:, None, None]


images = torch.randn(budget.choose(smoke=2, laptop=8), 3, 64, 64, generator=torch.Generator().manual_seed(0))
half, kinds, table = torch.full((len(images),), 500.0), ("U-Net", "plain convolutions"), []
alt = "Gradient maps: the bright spot of the U-Net grows with its levels, that of plain convolutions hardly"
with plot.figure(alt=alt, height=4.6) as fig:
    for kind, line in zip(kinds, fig.subplots(2, 4), strict=True):
        for levels, axes in enumerate(line, 1):
            torch.manual_seed(levels)
            net = network_of(kind, levels)
            field = input_gradient(lambda x, net=net: net(x, half), images, 32, 32)
            for name, part in list(net.named_modules()):
                if isinstance(part, nn.GroupNorm):
                    net.set_submodule(name, FixedNorm(part))
            fixed = input_gradient(lambda x, net=net: net(x, half), images, 32, 32)
            side = receptive_side(field, 32, 32, share=0.5)
            depth = f"{levels} level{'s'[: levels - 1]}" if kind == "U-Net" else f"{3 * levels + 2} blocks"
            table.append(f"{kind:20}{depth:10}")
            for map_ in (field, fixed):
                wide = receptive_side(map_, 32, 32, share=0.95)
                table[-1] += f"{(map_ > 0).float().mean():>12.0%}{wide:>5} px{receptive_side(map_, 32, 32, 0.5):>7} px"
            axes.imshow((field / field.max()).clamp(min=1e-5).log10(), cmap="magma", vmin=-4, vmax=0)
            axes.plot(32 + (frame_x - 0.5) * side, 32 + (frame_y - 0.5) * side, color="#56B4E9")
            axes.set(xticks=[], yticks=[], xlabel=f"{depth}: {side} px", ylabel=kind if levels == 1 else "")
            axes.grid(False)
print(f"{'':30}{'--- as it is ---':>30}{'--- statistics fixed ---':>30}")
print(f"{'':30}" + 2 * f"{'gradient on':>12}{'95 %':>8}{'half':>10}", *table, sep="\n")

# %% [markdown] hints="evaluate.input_gradient"
# idea: torch can differentiate with respect to the picture as well as the weights; it has to be told before the network sees it.
# pseudo-code: copy the images (detach, clone) and ask for their gradient; gradient = torch.autograd.grad(sum of network(images)[:, :, row, column], images); absolute value; sum over channels; mean over pictures.
# most common error: `.backward()`. It fills the gradient of every weight as well, and the next training step adds to that.

# %% [markdown]
# **A trap.** Strictly, each of these fields is the whole picture: GroupNorm divides by a spread over *all* places, so every pixel moves every other a little. That is the haze, and the column "as it is": neither a count of nonzero gradients nor a square that holds 95 % of them
# tells the networks apart. Treat the statistics of the norms as constants while you differentiate, and both do. The square that holds half is nearly free of the haze; recorded over seeds:

# %% name="receptive-field"
field = results.load("receptive_field")
sides = {kind: field.variants[kind]["side"] for kind in kinds}
label, alt = (
    "square with half the gradient (px)",
    "Square with half of the gradient, for 1 to 4 levels, U-Net and plain",
)
plot.curves(field.x["values"], sides, xlabel="levels of the U-Net", ylabel=label, alt=alt)
print(results.verdict(field, "side", better="higher", at=field.x["values"][0]))
print(results.verdict(field, "side", better="higher", at=field.x["values"][-1]))

# %% [markdown] exercise_card="unet.parameters_by_part"
# ## Is the U symmetric? (Exercise 3.7 · `parameters_by_part`)
#
# So the way down buys view, and cheaply: a coarse level has few pixels. What does the way up cost?
#
# **Your turn.** Count the weights of five parts of a `UNet`: `"time and class"` (`unet.time`, `unet.label`, `unet.vector`; the last two may be `None`), `"encoder"` (`unet.down`), `"middle"` (`unet.middle1`, `unet.middle2`), `"decoder"` (`unet.up`) and `"ends"` (`unet.enter`, `unet.norm`, `unet.leave`). Return a dictionary in
# this order.
#
# The check's cell builds the published networks on torch's `meta` device, which knows shapes and holds no numbers. "Paper": DDPM appendix B; for multiply-adds DiT's Table 6, which calls them Gflops; for the last two SDXL's Table 1. Our ADM has one row more in its table of classes, the null class.

# %% exercise="unet.parameters_by_part"
from lesson_lib.unet import parameters_by_part

# %% name="check-parameters"
parameters_by_part = check("unet.parameters_by_part", parameters_by_part)
published = {  # name: configuration, pixels of a side, weights and multiply-adds as the papers have them
    "ours": (UNetConfig.shapes16(), 16, "", ""),
    "DDPM": (UNetConfig.ddpm_cifar10(), 32, "35.7 M", ""),
    "ADM 64": (UNetConfig.adm(64), 64, "", ""),
    "ADM 256": (UNetConfig.adm(256), 256, "", "1120 G"),
    "ADM 512": (UNetConfig.adm(512), 512, "", "1983 G"),
    "SD 1.5": (UNetConfig.sd15(), 64, "860 M", ""),
    "SDXL": (UNetConfig.sdxl(), 128, "2.6 B", ""),
}
parts = {}
print(f"{'network':22}{'input':>6}{'weights':>16}{'paper':>9}{'multiply-adds':>16}{'paper':>9}")
for name, (config, side, weights_told, macs_told) in published.items():
    with torch.device("meta"):
        net, picture, t = UNet(config), torch.zeros(1, config.in_channels, side, side), torch.zeros(1)
        labels = torch.zeros(1, dtype=torch.int64) if config.num_classes else None
        words = torch.zeros(1, 77, config.context_size) if config.context_size else None
        vector = torch.zeros(1, config.vector_size) if config.vector_size else None
        macs = count_macs(net, picture, t, labels, words, vector)
    parts[name] = parameters_by_part(net)
    total = sum(parts[name].values())
    print(f"{name:22}{side:>5}²{total:>16,}{weights_told:>9}{macs / 1e9:>14,.2f} G{macs_told:>9}")
shares = {name: [100 * n / sum(found.values()) for n in found.values()] for name, found in parts.items()}
alt = "Shares of the weights by part for seven U-Nets: the decoder holds more than half in each"
plot.heat(list(shares.values()), xlabel="part", ylabel="", label="% of the weights", alt=alt,
          xticks=[part.replace(" and ", "\n") for part in parts["SDXL"]], yticks=list(shares))  # fmt: skip
revisit("unet.q2", round(shares["DDPM"][3], 1))

# %% [markdown] hints="unet.parameters_by_part"
# idea: a module knows its weights; a weight knows how many numbers it holds.
# pseudo-code: count(modules) = sum of weight.numel() over the parameters of those that are not None; one entry for each part.
# most common error: `len(list(module.parameters()))`. That counts tensors: a bias of 64 numbers and a kernel of 36,864 count alike.

# %% [markdown] exercise_card="unet.attention_bug"
# ## Why test on maps that are not square? (Exercise 3.8 · find the bug)
#
# A student gave an attention block the shipped weights. Run the next cell without reading it: same weights, noise and orders, with the library's block and with the student's. No shape complains, and the samples may not tell you either; numbers do.
#
# **Your turn.** Below it stands the student's class. One line of `forward` is wrong; mend it in place.


# %% name="symptom" cellView="form"
def student(h, out):
    return h + (out - h).mT


rows = {"the library's": sample(shipped, eight, noise[:8])}
with attention(student):
    rows["the student's"] = sample(shipped, eight, noise[:8])
plot.sample_rows(rows, column_titles=names, alt="Samples with the right attention block and with the student's")
(right, loss_right), (wrong, loss_wrong) = run(), run(student)
print(f"loss on unseen pictures: {loss_right:.4f} with the library's block, {loss_wrong:.4f} with the student's")
print(f"predicted velocities: up to {(right - wrong).abs().max():.1g} apart")

# %% exercise="unet.attention_bug"
from lesson_lib.unet import AttentionBlock

# %% name="check-attention-bug"
AttentionBlock = check("unet.attention_bug", AttentionBlock)

# %% [markdown] hints="unet.attention_bug"
# idea: follow one pixel, second row, first column. Where does it stand in the list, and where does its answer land?
# pseudo-code: the pattern on the way back must name the axes in its brackets in the order of the pattern on the way there.
# most common error: turning *both* patterns, so that they still disagree.

# %% [markdown]
# Neither loss nor samples need show such a bug: a network leans little on what it needs little, and one that is trained with the bug learns around it. Compare numbers with other people's code, and give a test shapes whose sides all differ.
#
# ## Can it draw what you ask for?
#
# Your U-Net on shapes, a tenth of the labels dropped; the budget decides how long. Then the judge reads colour and shape of each sample; intervals are Wilson's. On a GPU a third cell gives the same class one channel and ten labels, to learn real pictures of clothes.

# %% name="train"
torch.manual_seed(0)
model, loss = UNet(UNetConfig.shapes16()).to(device), denoising_loss(flow, label_dropout=0.1)
work = budget.choose(smoke=12, laptop=900, gpu=3000)
record = fit(model, (data.images, data.labels), loss, steps=work, **recipe)
print(f"{len(data)} pictures, {record.steps} steps, {record.seconds:.0f} s, {record.images_per_second:.0f} pictures/s")
print(f"peak memory {record.peak_memory_mb:.0f} MB on {record.device}; budget: {budget.name}")
plot.losses(record, alt="Training loss of your U-Net on shapes", logy=True)

# %% name="accuracy"
judge, count = load_judge(device), budget.choose(smoke=24, laptop=240, gpu=960)
orders = torch.arange(count, device=device) % 24
begin = torch.randn(count, 3, 16, 16, generator=budget.generator(2), device=device)


def report(name, drawn, asked):
    right = round(prompt_accuracy(drawn, asked, judge) * len(drawn))
    share, low, high = results.proportion_interval(right, len(drawn))
    print(f"{name:32} {share:6.1%} of {len(drawn)} as asked, 95 % interval [{low:.1%}, {high:.1%}]")


for name, net in (("shipped", shipped), ("yours", model)):
    for scale in (1.0, 2.0):
        report(f"{name}, scale {scale:g}", sample(net, orders, begin, scale), orders)
rows = {"yours": sample(model, eight, noise[:8]), "shipped": sample(shipped, eight, noise[:8])}
rows["real"] = torch.stack([data.images[data.labels == k][0] for k in eight])
plot.sample_rows(
    rows, column_titles=names, alt="Your samples, the shipped network's from the same noise, real pictures"
)

# %% name="fashion"
work = budget.choose(smoke=0, laptop=0, gpu=3000)
try:
    fashion = hub("fashion_mnist").to(device) if work else None
except OSError as problem:
    fashion = print(f"Fashion-MNIST is not here: {problem}")
if fashion:
    wider = replace(UNetConfig.shapes16(), in_channels=1, out_channels=1, model_channels=32, num_classes=10)
    clothes, ten = UNet(wider).to(device), torch.arange(10, device=device)
    story = fit(clothes, (fashion.images, fashion.labels), loss, steps=work, batch_size=128, **recipe)
    print(f"{len(fashion)} pictures, {story.seconds:.0f} s, peak memory {story.peak_memory_mb:.0f} MB")
    start = torch.randn(10, 1, 28, 28, generator=budget.generator(3), device=device)
    rows = {f"scale {s:g}": sample(clothes, ten, start, s) for s in (1.0, 2.0)}
    rows["real"] = torch.stack([fashion.images[fashion.labels == k][0] for k in range(10)])
    plot.sample_rows(rows, column_titles=fashion.class_names, alt="Clothes drawn by your U-Net, and real ones")
else:
    print("No clothes this time: this cell needs the gpu budget, and a network or a cached copy of Fashion-MNIST.")

# %% [markdown]
# ## What if you cut a skip in a trained network?
#
# Eight combinations, one noise, no training: `unet.skips` is set, zeros flow. The still pictures show six of the eight; the menu has all.

# %% name="dial-skips"
ways = [(1, 1, 1), (0, 1, 1), (1, 0, 0), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 1, 0), (0, 0, 0)]
few, cut = budget.choose(smoke=12, laptop=96), {}
for way in ways:
    shipped.skips = tuple(map(bool, way))
    kept = ", ".join(level for level, on in zip(("16×16", "8×8", "4×4"), way, strict=True) if on) or "none"
    cut[kept] = sample(shipped, orders[:few], begin[:few], 1.0)
    report(f"skips kept: {kept}", cut[kept], orders[:few])
shipped.skips = (True, True, True)


def draw(kept):
    plot.sample_grid(cut[kept][:12], columns=4, alt=f"Twelve samples with these skips: {kept}")


widgets.menu(list(cut), draw, label="skips kept", alt="Twelve samples from the same noise with some skips cut")

# %% [markdown]
# This is not the experiment of the first picture. Here the decoder was *trained* to lean on what you cut; there, each network learned from its first step to do without. Only the second says what a skip is good for.
#
# ## What is each part worth, trained anew?
#
# One field of the configuration changed, all else equal, seeds paired. First the skips.


# %% name="ablation-skips"
def ablation(found, what):
    alt = f"Held-out loss of each variant with intervals: {what}"
    plot.intervals(found, "loss", xlabel="loss on held-out pictures", alt=alt, **lower)
    print(f"— {what}: {found.configuration['steps']} steps a run, {len(found.seeds)} seeds —")
    for metric in found.metrics:
        print(results.verdict(found, metric, better="higher" if metric == "accuracy" else "lower"))


ablation(skips, "skips taken away")
revisit("unet.q1")
sizes = [f"{width * side**2:,}" for width, side in zip(UNetConfig.shapes16().channels, (16, 8, 4), strict=True)]
print(f"\nours: {3 * 16**2} numbers in a picture; in one map of each level: {', '.join(sizes)}")
lowest = UNetConfig.adm(256).channels[-1] * (256 // 2**5) ** 2
print(f"ADM 256: {3 * 256**2:,} numbers in a picture; in the coarsest map: {lowest:,}")

# %% [markdown]
# Read the dots before the means: a row that scatters widely has a wide interval, and then even a large difference of means is not established. And read the last two lines before you generalise. Each of our maps has *more* numbers than a picture, so in principle any level could carry all
# detail; ADM's coarsest cannot. You see what a small network learns to do without skips in so few steps. Now the time, and attention.

# %% name="ablation-time-attention"
ablation(results.load("unet_time"), "time added or AdaGN")
ablation(results.load("unet_attention"), "attention nowhere, at 4×4, at 4×4 and 8×8")
revisit("unet.q3")

# %% [markdown]
# At full size, ImageNet 128²: AdaGN 13.06 FID against 15.08 for adding (ADM, Table 3); attention at 32, 16 and 8 instead of 16 alone lowers FID by 0.72 after 700,000 steps, by 0.66 after 1,200,000 (Table 1). The tables give one number each. Ours are for one object on 16 × 16 pixels, where three convolutions at 4 × 4
# already see the picture. Where a verdict above finds no difference, that is the finding at this scale, and it contradicts neither table.
#
# ## What did they break?
#
# Three students, a small U-Net, real digits. Run the next cell without reading it. From the curves and the samples (guidance scale 2): what did A, B and C do?

# %% name="break-it-run" cellView="form"
real = digits("train").to(device)
tiny = replace(
    UNetConfig.shapes16(), in_channels=1, out_channels=1, channel_mult=(1, 2), attention=(0, 1), num_classes=10
)


class Tidied(UNet):
    def decode(self, h, kept, emb, context=None):
        kept = list(kept)
        for stage in self.up:
            h = stage(torch.cat([kept.pop(), h], dim=1) if hasattr(stage, "block") else h, emb, context)
        return h


def mute(net):
    net.embed = lambda t, labels=None, vector=None: torch.zeros(len(t), tiny.emb_size, device=device)


def cut_short(net):
    for part in net.modules():
        if hasattr(part, "shortcut"):
            part.shortcut = nn.Conv2d(part.conv1.in_channels, part.conv1.out_channels, 1).to(device)
            for weight in part.shortcut.requires_grad_(False).parameters():
                weight.zero_()


def learn(change=lambda net: None):
    torch.manual_seed(0)
    net = UNet(tiny).to(device)
    change(net)
    work = budget.choose(smoke=10, laptop=300, gpu=1000)
    return net, fit(net, (real.images, real.labels), loss, steps=work, **recipe, progress=False)


(sound, first), (a, second), (b, third) = learn(), learn(mute), learn(cut_short)
c = Tidied(tiny).to(device).eval()
c.load_state_dict(sound.state_dict())
plot.losses(
    {"sound, and C": first, "A": second, "B": third}, alt="Loss curves: B stays level, A lies above the sound one"
)
digit, rows = torch.arange(200, device=device) % 10, {}
start = torch.randn(200, 1, 8, 8, generator=budget.generator(4), device=device)
for name, net in {"sound": sound, "A": a, "B": b, "C": c}.items():
    drawn = sample(net, digit, start)
    rows[name] = drawn[:10]
    share, low, high = results.proportion_interval(round(200 * class_accuracy(drawn, digit)), 200)
    print(f"{name:6} {share:6.1%} of 200 digits as asked [{low:.1%}, {high:.1%}]")
plot.sample_rows(rows, column_titles=[f"asked: {i}" for i in range(10)], alt="Ten digits each: sound, A, B and C")

# %% [markdown]
# <details><summary>A</summary>
#
# The blocks never hear `emb`: neither time nor class. The loss still falls, because a noisy picture shows how noisy it is. The digits are nobody's order.
# </details>
# <details><summary>B</summary>
#
# No shortcut. The last convolution of each block is zero, so each block returns zero; behind them stands another layer of zeros, and two in a row never wake each other. Only the bias of the output learns.
# </details>
# <details><summary>C</summary>
#
# The sound network, sampled by code that somebody "tidied" after training: kept map first, features second. The channels add up, every weight loads, every block reads the wrong half.
# </details>
#
# A stuck curve is the friendly bug. In your own words:

# %% name="in-words"
prose("unet.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | what differs from yours |
# |---|---|
# | hojonathanho/diffusion, `diffusion_tf/models/unet.py` | time added; one head; sines first (lesson 2) |
# | openai/guided-diffusion, `guided_diffusion/unet.py` | AdaGN, scale first; halves and doubles inside residual blocks; $q$ and $k$ each scaled by $d^{-1/4}$, softmax in float32 |
# | CompVis/latent-diffusion, `ldm/modules/attention.py` | time added; after a block: attention to pixels, attention to words, a GEGLU layer |
# | Stability-AI/generative-models, `configs/inference/sd_xl_base.yaml` | three levels; a vector of 2,816 numbers joins the time |
#
# **Two traps.** SDXL's file lists `transformer_depth` 1, 2, 10, and attends only at `attention_resolutions` 4 and 2: the first entry is never used, and the paper's [0, 2, 10] is right. And in diffusers, `attention_head_dim=8` of Stable Diffusion 1.5 means 8 *heads*, of 40, 80 or 160 channels, a misnomer that was kept. Only the count of
# weights tells.
#
# ## What have you got now?
#
# * A residual block is a correction that starts at zero; without its shortcut the zero is fatal.
# * Levels buy view, skips return detail, attention joins places that convolutions reach late. What each is worth is a measurement, for one size and one data set.
# * Every kept map is read once: hence the decoder's one block more in each level, and most of the weights.
#
# So the U ruled because it has both views in one network, at a price that falls with every level. What a transformer needs to do without it is lesson 6; lesson 4 first makes the picture itself smaller.
#
# From now on you can import `lesson_lib.unet`, `lesson_lib.attention` and `evaluate.input_gradient`. Three references:
#
# * Ronneberger and others, *U-Net* (arXiv 1505.04597): the shape.
# * Ho and others, *DDPM* (arXiv 2006.11239), appendix B: the network that you wrote.
# * Dhariwal and Nichol, *ADM* (arXiv 2105.05233), §3, Tables 1 to 3: what each change bought, measured.

# %% name="score"
score("03")
