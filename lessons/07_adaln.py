# %% [markdown] title_card="07"
# # 7 · How should a transformer listen?
#
# *In lesson 6 every block heard time and class through six vectors, and you took them as given. There are other ways to tell a transformer something. They differ in weight, in cost and in how they begin.
# Which part of the winner does the work, and what can it never say?*

# %% name="setup" lesson="07"
from lesson_lib.setup import start_lesson

budget = start_lesson("07")

# %% name="imports"
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from lesson_lib import plot, results, samplers, widgets
from lesson_lib.data import COLOURS, SHAPES, shapes
from lesson_lib.dit import DiT, DiTConfig, sum_of, unpatchify
from lesson_lib.evaluate import count_macs, load_judge, prompt_hits
from lesson_lib.exercises import REGISTRY, check, predict, prose, revisit, score
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.guidance import Guided
from lesson_lib.official.parity import parity
from lesson_lib.train import denoising_loss, fit

device, judge = budget.device, load_judge(budget.device)
shipped, flow = load_shipped("dit-shapes", device)
small = replace(DiTConfig.shapes16(), hidden_size=64)  # half the shipped network's width: for fresh and live networks

# %% [markdown]
# ## What does the way of telling change?
#
# First two rows from the shipped DiT, which listens by adaLN-Zero. Then the plot of this lesson: four transformers of one width and depth, trained alike, that differ in how their blocks hear the time and the class.
#
# By the end you can write each of the four, and say which line of code separates two of the curves. Before any code, three guesses.

# %% name="picture-first"
eight = torch.tensor([0, 5, 10, 15, 16, 21, 2, 7], device=device)  # colour * 4 + shape
noise = torch.randn(16, 3, 16, 16, generator=budget.generator(1), device=device)
walk_steps, names = budget.choose(smoke=8, laptop=20, gpu=40), [f"{COLOURS[k // 4]} {SHAPES[k % 4]}" for k in eight]


def sample(model, labels, start, scale=2.0):
    return samplers.euler(Guided(model, labels, scale), start, walk_steps, flow).clamp(-1, 1)


rows = {f"noise {i + 1}": sample(shipped, eight, part) for i, part in enumerate(noise.split(8))}
plot.sample_rows(rows, column_titles=names, alt="Eight classes of shapes, drawn twice by the shipped DiT")


def curves(record, metric, ylabel, **scale):
    found = {name: metrics[metric] for name, metrics in record.variants.items()}
    alt = f"{ylabel} over the training for {', '.join(found)}, with bands over seeds"
    label = f"{record.x['name']} ({record.configuration['steps']} steps)"
    plot.curves(record.x["values"], found, xlabel=label, ylabel=ylabel, alt=alt, **scale)


ways = results.load("adaln_ways")
end = ways.x["values"][-1]
curves(ways, "fd_judge", "FD-judge (lower is better)", logy=True)
print(results.verdict(ways, "fd_judge", at=end))

# %% name="guesses"
predict("adaln.q1")
predict("adaln.q2")
predict("adaln.q3")

# %% [markdown]
# ## Who has to hear what?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $x$ | `x`, `tokens` | `(B, N, D)` | tokens: `N` patches of each of `B` pictures |
# | | `heard` | two of `(B, D)` | the time as a vector, the class as a vector |
# | $c$ | `c` | `(B, D)` | their sum |
# | $\beta, \gamma, \alpha$ | `shift, scale, gate` | `(B, D)` | what $c$ does to every feature of a picture's tokens |
# | msa, mlp | `shift_msa`, … | | of the attention, of the perceptron |
# | way | `conditioning` | a word | how blocks are told, a key of `BLOCKS` |
#
# Here is a DiT whose blocks are a dummy: they return what they get. A test watches the token of the first patch behind the blocks. Does it notice another time, another class, another picture in the *last* patch?

# %% name="skeleton"
torch.manual_seed(0)
host, host_noise = DiT(small), torch.randn(1, 3, 16, 16)  # lends its embedders and its last layer, not its blocks


def quiet(name, h):
    return h


@torch.no_grad()
def first_token(run, x, t, label, say=quiet):
    tokens = say("patches", host.x_embedder(x) + host.pos_embed)
    heard = [say("time", host.t_embedder(t)), say("class", host.y_embedder(label))]
    tokens = say("after the blocks", run(tokens, heard))
    say("velocity", unpatchify(host.final_layer(tokens, sum_of(heard)), small.patch_size, small.grid))
    return tokens[:, 0]


def ask(name, run, say=quiet):
    """Turn three knobs, and say which of them the first patch notices after run(tokens, heard)."""
    x, t, label = host_noise, torch.tensor([300.0]), torch.tensor([0])
    last = x + F.pad(torch.ones(4, 4), (12, 0, 12, 0))
    before, answers = first_token(run, x, t, label, say), []
    for knob, *given in (("time", x, t + 400, label), ("class", x, t, label + 1), ("last patch", last, t, label)):
        same = torch.allclose(before, first_token(run, *given), rtol=0, atol=1e-6)
        answers.append(f"{knob}: {'no' if same else 'yes'}")
    print(f"{name:16}", "   ".join(answers))


def say(name, h):
    print(f"{name:18}{tuple(h.shape)}")
    return h


ask("dummy", lambda tokens, heard: tokens, say)

# %% [markdown] exercise_card="dit.modulate"
# ## What can a number do to a token? (Exercise 7.1 · `modulate`)
#
# Three times no. Where could a block be told something? LayerNorm strips a token of its mean and its spread before attention and perceptron read it. There you can stretch some features, and move some.
#
# $$ \mathrm{modulate}(x, \beta, \gamma) = x \odot (1 + \gamma) + \beta $$
#
# This is lesson 2's FiLM and lesson 3's AdaGN behind another norm. The 1 is there so that $\gamma = 0$ means "leave it".
#
# **Your turn.** `x` is `(B, N, D)`, `shift` and `scale` are `(B, D)`. The check's cell tells the shipped network's first block three times, with the same picture each time. A dot is one of 16 patches; the three features are those that the time moves most.

# %% exercise="dit.modulate"
from lesson_lib.dit import modulate

# %% name="check-modulate"
modulate = check("dit.modulate", modulate)
data = shapes(budget.choose(smoke=400, laptop=8000), size=16, seed=3, device=device)
moments, block = torch.tensor([0.1, 0.5, 0.9], device=device), shipped.blocks[0]
noisy, _ = flow.training_pair(data.images[:1], noise[:1], moments[1:2])
with torch.no_grad():
    normed = block.norm1(shipped.x_embedder(noisy) + shipped.pos_embed)
    shift, scale, *_ = block.adaLN_modulation(
        shipped.t_embedder(flow.model_time(moments)) + shipped.y_embedder(data.labels[:1])
    )
    after = modulate(normed.expand(3, -1, -1), shift, scale).cpu()
alt = "Three features of 16 patches before and after modulation: one straight line for each time"
with plot.figure(alt=alt, height=2.9) as fig:
    for feature, axes in zip((shift.std(0) + scale.std(0)).topk(3).indices.tolist(), fig.subplots(1, 3), strict=True):
        across, place = normed[0, :, feature].cpu().sort()
        for k, colour in enumerate(plot.colours("abc")):
            label = f"told t = {moments[k]:.1f}"
            axes.plot(across, after[k, place, feature], marker=plot.MARKERS[k], markersize=4, color=colour, label=label)
        axes.axline((0, 0), slope=1, color="#999999", linewidth=1, linestyle=":")
        axes.set(xlabel=f"feature {feature}, normalised")
    fig.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)

# %% [markdown] hints="dit.modulate"
# idea: the condition belongs to the picture, not to the patch. Every patch needs the same two vectors.
# pseudo-code: give shift and scale an axis of length one between B and D; x times (1 plus scale); plus shift.
# most common error: `scale[..., None]` or no new axis at all. The first mixes tokens with features; the second works wherever `B` happens to equal `N`, and tells the wrong picture.

# %% [markdown]
# ## Which ways are there?
#
# The patches of a feature lie on one line: its slope is $1 + \gamma$, its height $\beta$, and the dotted line would change nothing. Another time turns the line for all patches at once. Keep this picture; the end of the lesson comes back to it.
#
# A linear layer on the condition makes $\beta$ and $\gamma$. Here it is, and three blocks that listen in three ways. **In-context** changes nothing in the block: time and class stand in the sentence as two more words, to be asked like any other. **Cross-attention** asks them in a step of its own. **AdaLN** asks nobody; the condition turns the knobs behind both norms.
# Under them, the skeleton's test.

# %% source="dit.Modulation"
from lesson_lib.dit import Modulation

# %% source="dit.InContextBlock"
from lesson_lib.dit import InContextBlock

# %% source="dit.CrossAttentionBlock"
from lesson_lib.dit import CrossAttentionBlock

# %% source="dit.AdaLNBlock"
from lesson_lib.dit import AdaLNBlock


# %% name="ask-three"
def fresh(kind, seed=1, **options):
    torch.manual_seed(seed)
    return kind(64, 4, **options)


def far(tokens, start):
    return float((tokens - start).norm() / start.norm())


torch.manual_seed(2)
start, c = torch.randn(8, 16, 64), host.t_embedder(torch.linspace(0, 1000, 8))
block = fresh(InContextBlock)
ask("in-context", lambda tokens, heard: block(torch.cat([tokens, torch.stack(heard, 1)], 1))[:, : tokens.shape[1]])
block = fresh(CrossAttentionBlock)
ask("cross-attention", lambda tokens, heard: block(tokens, torch.stack(heard, 1)))
block = fresh(AdaLNBlock)
ask("adaLN", lambda tokens, heard: block(tokens, sum_of(heard)))
with torch.no_grad():
    print(f"a fresh adaLN block moves its tokens by {far(block(start, c), start):.0%} of their length")

# %% [markdown] exercise_card="dit.AdaLNZeroBlock.forward"
# ## Who may speak, and how loudly? (Exercise 7.2 · `AdaLNZeroBlock.forward`)
#
# Every way hears everything. But what fresh blocks have to say is random. **adaLN-Zero** gives each branch a *gate* $\alpha$, one more vector from the condition, which multiplies what the branch adds:
#
# $$ x \leftarrow x + \alpha \odot \mathrm{branch}\big(\mathrm{modulate}(\mathrm{LN}(x), \beta, \gamma)\big) $$
#
# Twice: for the attention, then for the perceptron. No sigmoid, no 1: a gate of 0 silences the branch, a negative one subtracts it.
#
# **Your turn.** `self.adaLN_modulation(c)` returns six `(B, D)`, in the order shift, scale, gate of the attention, then shift, scale, gate of the perceptron. The check's cell asks your block twice: with its modulation set to zero, and with random numbers.

# %% exercise="dit.AdaLNZeroBlock.forward"
from lesson_lib.dit import AdaLNZeroBlock

# %% name="check-adaln-zero"
AdaLNZeroBlock = check("dit.AdaLNZeroBlock.forward", AdaLNZeroBlock)
block = fresh(AdaLNZeroBlock)
ask("random weights", lambda tokens, heard: block(tokens, sum_of(heard)))
for weight in block.adaLN_modulation.parameters():
    nn.init.zeros_(weight)
ask("all six zero", lambda tokens, heard: block(tokens, sum_of(heard)))
with torch.no_grad():
    print(f"with zeros it moves its tokens by {far(block(start, c), start):.0%} of their length")

# %% [markdown] hints="dit.AdaLNZeroBlock.forward"
# idea: adaLN's two lines with one factor more in each. The gate belongs to the branch; the shortcut stays untouched.
# pseudo-code: six vectors from c; x = x + gate with a token axis × attn(modulate(norm1(x), shift, scale)); the same with mlp, norm2 and the other three.
# most common error: the names of the six in another order. ADM takes the scale first, and six vectors of one shape fit every order.

# %% [markdown] exercise_card="dit.start_modulation"
# ## What must be zero? (Exercise 7.3 · `start_modulation`)
#
# Three times no again: with zeros a block *is* its shortcut, like lesson 3's residual block. The paper's text speaks of the gates; DiT's code sets the whole layer to zero, shifts and scales too. There are choices:
#
# | start | weights of the layer | the fresh block |
# |---|---|---|
# | `"zero"` | all 0 | returns its input |
# | `"gates"` | 0 in the rows that make gates, Xavier's numbers in the others | returns its input |
# | `"gaussian"` | $\mathcal N(0, 0.001^2)$, as adaLN-Gaussian proposes | nearly |
# | `"xavier"` | Xavier's numbers, as in all other layers | ? |
#
# **Your turn.** `weight` is `(parts · D, D)`: the rows of part 0 first. It arrives with Xavier's numbers and must not be changed; return a new tensor. Gates are parts 2 and 5 of six. The check's cell stacks twelve of your blocks and measures how far the tokens move.

# %% exercise="dit.start_modulation"
from lesson_lib.dit import start_modulation

# %% name="check-start"
start_modulation = check("dit.start_modulation", start_modulation)


@torch.no_grad()
def walk(kind, prepare=lambda weight: weight, count=12):
    """Say how far the tokens are from where they began after 1, 2, … fresh blocks, as a share of their length."""
    tokens, found = start, []
    for k in range(count):
        block = fresh(kind, seed=k)
        layer = block.adaLN_modulation[1]
        layer.weight.copy_(prepare(nn.init.xavier_uniform_(layer.weight)))
        layer.bias.zero_()
        tokens = block(tokens, c)
        found.append(far(tokens, start))
    return found


distances = {}
for how in ("zero", "gates", "gaussian", "xavier"):
    distances[how] = walk(AdaLNZeroBlock, lambda weight, how=how: start_modulation(weight, 6, how))
distances["adaLN"] = walk(AdaLNBlock)
for name, found in distances.items():
    print(f"{name:16} after one block {found[0]:8.2g}, after twelve {found[-1]:8.2g}")
shown = {name: found for name, found in distances.items() if found[-1] > 0}
alt = "Distance of the tokens from their start over twelve fresh blocks: far without gates, little with Xavier's, hardly with Gaussian"
plot.lines(range(1, 13), shown, xlabel="fresh blocks passed", ylabel="moved (share of the length)", logy=True, alt=alt)

# %% [markdown] hints="dit.start_modulation"
# idea: a linear layer's rows are its outputs, and outputs are cut into parts in order. A silent part is a block of zero rows.
# pseudo-code: zero: zeros like weight; gaussian: 0.001 × randn like weight; xavier: weight; gates: a copy with the rows in parts (parts, D, D), parts 2, 5, … set to zero, folded back.
# most common error: every third *row*. Row 2 is the third feature of the first shift; the gates are rows 2D to 3D.

# %% [markdown]
# Two starts are missing in the figure: a logarithmic axis has no place for exactly nothing. But look at "xavier", where nothing was set to zero. It barely moves either, because a fresh DiT's condition is small: its embedders' weights begin with a deviation of 0.02. The jump is between *a gate* and *no gate*. Whether the
# rest matters to training is measured below.

# %% [markdown] exercise_card="dit.AdaLNSingleBlock.forward"
# ## Does every block need its own layer? (Exercise 7.4 · `AdaLNSingleBlock.forward`)
#
# Six vectors of $D$ numbers from $D$ numbers: $6D^2$ weights, in every block. PixArt-α tells its text by cross-attention, so these layers hear the time alone. **adaLN-single** computes the six once for all blocks, and block $i$ adds a small table $E^{(i)}$ of its own:
#
# $$ (\beta_1, \gamma_1, \alpha_1, \beta_2, \gamma_2, \alpha_2)^{(i)} = S(t) + E^{(i)}, \qquad E^{(i)} \in \mathbb R^{6 \times D} $$
#
# **Your turn.** `shared` is `(B, 6D)`, the same tensor for every block; `self.scale_shift_table` is `(6, D)`. Then as in 7.2. Built with words, the block has a `self.cross_attn`; it stands between the two branches, added to `x` *without norm and without gate*. Otherwise `self.cross_attn` is `None`.
#
# The check's cell stacks twelve again, and does the arithmetic behind a well-known number.

# %% exercise="dit.AdaLNSingleBlock.forward"
from lesson_lib.dit import AdaLNSingleBlock

# %% name="check-single"
AdaLNSingleBlock = check("dit.AdaLNSingleBlock.forward", AdaLNSingleBlock)
shared, tokens, distances["adaLN-single"] = torch.zeros(8, 6 * 64), start, []
with torch.no_grad():
    for k in range(12):
        tokens = fresh(AdaLNSingleBlock, seed=k)(tokens, shared)
        distances["adaLN-single"].append(far(tokens, start))
shown = {name: distances[name] for name in ("adaLN", "adaLN-single", "xavier")}
alt = "Distance from the start over twelve fresh blocks: adaLN-single lies between adaLN without gates and adaLN-Zero"
plot.lines(range(1, 13), shown, xlabel="fresh blocks passed", ylabel="moved (share of the length)", logy=True, alt=alt)
layer, table = 6 * 1152**2 + 6 * 1152, 6 * 1152
print(
    f"PixArt-α: 28 blocks of width 1152; with a layer in each 833 M weights, {28 * layer / 833e6:.1%} in those layers"
)
print(f"shared: {layer / 1e6:.1f} M in one layer, {28 * table / 1e6:.2f} M in 28 tables")

# %% [markdown] hints="dit.AdaLNSingleBlock.forward"
# idea: only the first line is new. Where 7.2 asked its own layer, this block adds its table to what arrives.
# pseudo-code: shared as (B, 6, D), plus the table; cut along axis 1 into six; the attention branch; where there are words: x plus cross_attn(x, context); the perceptron branch.
# most common error: reading shared as (B, D, 6). It holds all shifts first, then all scales; reshaped the other way round, features and parts trade places, and every shape is right.

# %% [markdown]
# **Two corrections.** adaLN-single is not a shared adaLN-*Zero*: its tables begin with $\mathcal N(0, 1/D)$, so a fresh block acts at once, and the words' branch has no gate. (PixArt meant to start from a trained DiT, whose vectors the tables reproduce; the words' last layer does start at zero.) And PixArt's "27 %" (§3.3) is a share of *parameters*, the first line printed; it is often quoted as computation.
#
# ## Who begins with what?
#
# All five classes have one signature, so a network looks its block up by name. Below the list, the start of the whole network.

# %% source="dit.BLOCKS"
from lesson_lib.dit import BLOCKS

# %% source="dit.initialise"
from lesson_lib.dit import initialise

# %% [markdown] exercise_card="dit.DiT.run_blocks"
# ## Who prepares what the blocks are told? (Exercise 7.5 · `DiT.run_blocks`)
#
# One signature, but not one thing to hear:
#
# | `conditioning` | each block gets | and the sentence |
# |---|---|---|
# | `"in-context"` | the two vectors as tokens, `(B, 2, D)` | carries them at its end |
# | `"cross-attention"` | the same | stays |
# | `"adaln"`, `"adaln-zero"` | their sum $c$, `(B, D)` | stays |
# | `"adaln-single"` | `self.t_block` of the sum, `(B, 6D)` | stays |
#
# **Your turn.** `tokens` is `(B, N, D)`, `heard` a list of one or two `(B, D)`. Prepare the condition once, call every block as `block(tokens, condition, context)` (the library also hands on `self.ropes`: nothing, until lesson 8), and return the `N` *patches*: the final layer has no use for the two words. `sum_of(heard)` adds up.
#
# The check's cell gives your DiT the shipped weights, compares the library with diffusers (whose time frequencies and one epsilon are others than the paper's code has), and asks the skeleton a last time.

# %% exercise="dit.DiT.run_blocks"
from lesson_lib.dit import DiT

# %% name="check-run-blocks"
DiT = check("dit.DiT.run_blocks", DiT)
mine = DiT(shipped.config).to(device).eval()
mine.load_state_dict(shipped.state_dict())
given = noise[:8], torch.full((8,), 500.0, device=device), eight
with torch.no_grad():
    print(f"your network with the shipped weights: difference {(mine(*given) - shipped(*given)).abs().max():.1e}")
print("the library against diffusers:", parity("dit"), "\n")
for way in BLOCKS:
    torch.manual_seed(0)
    ask(way, DiT(replace(small, conditioning=way)).run_blocks)

# %% [markdown] hints="dit.DiT.run_blocks"
# idea: three kinds of condition, one loop.
# pseudo-code: remember N; condition = heard stacked as tokens for the first two ways, else sum_of(heard), through t_block where there is one; in-context: tokens with the condition behind them; every block in turn; the first N tokens.
# most common error: appending the two tokens inside the loop, or leaving them in. The first makes the sentence two words longer with each block; the second reaches `unpatchify`, which cannot lay 18 tokens out.

# %% [markdown]
# ## How does a network of zeros learn?
#
# adaLN and adaLN-Zero hear nothing yet. If six parts are zero *and* the last layer is, does any gradient arrive? Five steps of plain gradient descent: ● where a part gets one, · where it is exactly zero.


# %% name="wake-up"
def parts_of(net):
    """Return name → gradients of the parts of an adaLN-Zero DiT."""
    six = torch.stack([block.adaLN_modulation[1].weight.grad.unflatten(0, (6, -1)) for block in net.blocks])
    final = net.final_layer
    found = {"last layer": final.linear.weight.grad, "its shift, scale": final.adaLN_modulation[1].weight.grad}
    found |= {"patches": net.x_embedder.proj.weight.grad, "gates": six[:, 2::3], "shifts, scales": six[:, [0, 1, 3, 4]]}
    found["attention, perceptron"] = torch.stack([block.attn.qkv.weight.grad for block in net.blocks])
    return found | {"time": net.t_embedder.mlp[0].weight.grad}


woken = {}
for how in ("zero", "gates"):
    torch.manual_seed(0)
    net, batch = DiT(replace(small, start=how)), (data.images[:32].cpu(), data.labels[:32].cpu())
    descent, seen = torch.optim.SGD(net.parameters(), lr=0.5), []
    for _ in range(5):
        descent.zero_grad()
        denoising_loss(flow)(net, batch, torch.Generator().manual_seed(0)).backward()
        seen.append({name: bool(gradient.abs().max() > 0) for name, gradient in parts_of(net).items()})
        descent.step()
    woken[how] = {name: "".join(" ●" if step[name] else " ·" for step in seen) for name in seen[0]}
print(f"{'gradient at step':22}{'1 2 3 4 5, all zero':>22}{'1 2 3 4 5, gates zero':>26}")
for name, steps in woken["zero"].items():
    print(f"{name:24}{steps}{'':16}{woken['gates'][name]}")

# %% [markdown]
# The network wakes from the end: the last layer, then what feeds it and the gates, then the rest. It costs two steps. A gate of zero still hears how its branch would have helped, since the branch is not zero; two zeros that multiply each other would sleep for ever, as in lesson 3. Whether shifts and scales start at zero as well changes nothing in this order.
#
# ## What does each way cost?
#
# The paper compared four of them at its largest size, XL/2. Here are your classes at that size, counted on the meta device, beside the paper's Table 4 (400,000 steps, 250 sampling steps, no guidance).

# %% name="assemble"
table_4 = {"in-context": (449, 119.37, 35.24), "cross-attention": (598, 137.62, 26.14), "adaln": (600, 118.56, 25.21),
           "adaln-zero": (675, 118.64, 19.47), "adaln-single": None}  # fmt: skip
gmacs = {}
print(f"{'DiT-XL/2':17}{'weights':>14}{'GMAC':>10}   Table 4: M  Gflops    FID-50K")
for way, told in table_4.items():
    with torch.device("meta"):
        net = DiT(replace(DiTConfig.paper("XL/2"), conditioning=way))
        gmacs[way] = count_macs(net, torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.int64)) / 1e9
    weights = sum(weight.numel() for weight in net.parameters() if weight.requires_grad)
    paper = f"{told[0]:>7} M {told[1]:>10.2f} {told[2]:>10.2f}" if told else ""
    print(f"{way:17}{weights:>14,}{gmacs[way]:>10.2f}{paper}")
print(f"\ncross-attention against in-context: {gmacs['cross-attention'] / gmacs['in-context'] - 1:+.1%} multiply-adds")
for asked in (2, 77, 300):
    with torch.device("meta"):
        pair = [count_macs(kind(1152, 16), torch.empty(1, 256, 1152), torch.empty(condition))
                for kind, condition in ((CrossAttentionBlock, (1, asked, 1152)), (AdaLNZeroBlock, (1, 1152)))]  # fmt: skip
    print(f"one block with {asked:3} tokens to ask, against adaLN-Zero: {pair[0] / pair[1] - 1:+.1%}")

# %% [markdown] exercise_card="dit.parameters_by_part"
# ## Where do the weights sit? (Exercise 7.6 · `parameters_by_part`)
#
# The table is often misquoted. "5.67 / 3.75 / 2.98 / 2.27" goes around in its place: three of these numbers stand nowhere in the paper, and 2.27 is another experiment, seven million steps with guidance 1.5 (Table 2). The "15 %" of cross-attention holds for *two* tokens, as the last lines show; it is no figure for text. And the four weigh
# different amounts, so the table compares recipes, not one ingredient.
#
# adaLN-Zero has far more weights than in-context, and *fewer* multiply-adds. Where do they sit?
#
# **Your turn.** Return the trained weights (`requires_grad`) of a `DiT` in five parts, as a dictionary in this order: `"attention"` and `"perceptron"` (`attn` and `mlp` of the blocks), `"modulation"` (all that makes shifts, scales and gates, the final layer's too; so are norms with weights of their own and cross-attention, which do that work elsewhere), `"embedders"` (`t_embedder`, `y_embedder`), `"ends"` (`x_embedder`
# and the final layer's `linear`).

# %% exercise="dit.parameters_by_part"
from lesson_lib.dit import parameters_by_part

# %% name="check-parts"
parameters_by_part = check("dit.parameters_by_part", parameters_by_part)
parts = {}
for size in ("XL/2", "L/2", "B/2", "S/2"):
    with torch.device("meta"):
        net = DiT(DiTConfig.paper(size))
        macs_of = count_macs(net, torch.empty(1, 4, 32, 32), torch.empty(1), torch.empty(1, dtype=torch.int64))
    found = parameters_by_part(net)
    total = sum(found.values())
    parts[size] = {name: 100 * n / total for name, n in found.items()}
    listening = found["modulation"]
    print(f"DiT-{size:5}{total / 1e6:6.1f} M weights, modulation {listening / 1e6:6.2f} M: ", end="")
    print(f"{listening / total:.1%} of the weights, {listening / macs_of:.2%} of {macs_of / 1e9:.2f} GMAC")
alt = "Shares of the weights by part for four DiT sizes: modulation holds a third in each"
with plot.figure(alt=alt, height=2.4) as fig:
    axes, left = fig.subplots(), dict.fromkeys(parts, 0.0)
    for part, colour in zip(parts["XL/2"], plot.colours(list(parts["XL/2"])), strict=True):
        for size, share in parts.items():
            axes.barh(size, share[part], left=left[size], color=colour, edgecolor="white")
            if share[part] > 6:
                axes.text(left[size] + share[part] / 2, size, f"{part} {share[part]:.0f}", ha="center", va="center", size=9,
                          color="white" if part == "attention" else "black")  # fmt: skip
            left[size] += share[part]
    axes.grid(False)
    axes.set(xlabel="% of the weights (at the right, without a name: embedders, ends)", xlim=(0, 100))
revisit("adaln.q3", round(parts["XL/2"]["modulation"], 1))

# %% [markdown] hints="dit.parameters_by_part"
# idea: `named_parameters()` tells where each weight lives: "blocks.3.attn.qkv.weight". A word in the name decides.
# pseudo-code: five zeros; for each trained weight: split its name at the dots; find the first word that you know; add numel to its part; whatever you do not know is modulation.
# most common error: counting `pos_embed`. It stands in the list of parameters and is not trained.

# %% [markdown]
# A third of the weights for a fifth of a per cent of the work, at every size: a layer that runs once a *picture* does $6D^2$ multiply-adds, one that runs once a *token* does $N$ times as many. Nothing says that a third is needed; what sharing costs is measured below.
#
# ## What do trained shifts, scales and gates say about the time?
#
# Now open the shipped network. First the size of each block's six vectors (root of the mean square over features) from nearly clean to pure noise, without a class. Then the dial: the attention's features one by one, for the first block (blue) and the last (orange), sorted by their value at $t = 0.5$, so that you see which of them leave their place.


# %% name="over-time"
@torch.no_grad()
def six_vectors(t, labels):
    """Return the modulation of every block of the shipped network, (blocks, six, B, D), for times in [0, 1]."""
    c = shipped.t_embedder(flow.model_time(t.to(device))) + shipped.y_embedder(labels.to(device))
    return torch.stack([torch.stack(block.adaLN_modulation(c)) for block in shipped.blocks]).cpu()


times, kinds = torch.linspace(0.01, 0.99, 50), ("shift", "scale", "gate")
null = torch.full((50,), shipped.num_classes)
over_time = six_vectors(times, null)
alt = "Size of shift, scale and gate over time for four blocks, of the attention above and of the perceptron below"
with plot.figure(alt=alt, height=4.2) as fig:
    for part, axes in enumerate(fig.subplots(2, 3, sharex=True, sharey="col").flat):
        for k, colour in enumerate(plot.colours("abcd")):
            size = over_time[k, part].square().mean(dim=-1).sqrt()
            axes.plot(
                times, size, marker=plot.MARKERS[k], markevery=7, markersize=5, color=colour, label=f"block {k + 1}"
            )
        axes.set(title=f"{kinds[part % 3]}, {('attention', 'perceptron')[part // 3]}", ylim=(0, None))
        axes.set_xlabel("time t (1: noise)" if part > 2 else "")
    fig.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4)
print(f"gates below zero: {(over_time[:, 2::3] < 0).float().mean():.0%}; ", end="")
print(f"mean of all scales: {over_time[:, 1::3].mean():.2f}")

ends, order = over_time[[0, -1], :3], six_vectors(torch.tensor([0.5]), null[:1])[[0, -1], :3, 0].argsort(dim=-1)


def draw(t):
    now = six_vectors(torch.tensor([t]), null[:1])[[0, -1], :3, 0].gather(-1, order)
    seen, _ = flow.training_pair(data.images[:1], noise[:1], torch.tensor([t], device=device))
    with plot.figure(alt=f"Shift, scale and gate of the attention's features at t = {t:g}", height=1.8) as fig:
        first, *others = fig.subplots(1, 4, width_ratios=[0.8, 1.3, 1.3, 1.3])
        first.imshow((seen[0].cpu().clamp(-1, 1) + 1).permute(1, 2, 0) / 2)
        first.set(xticks=[], yticks=[])
        first.grid(False)
        for part, axes in enumerate(others):
            for features, colour in zip(now[:, part], ("#0072B2", "#E69F00"), strict=True):
                axes.plot(features, color=colour, linewidth=1)
            reach = float(ends[:, part].abs().max())
            axes.set(title=kinds[part], ylim=(-reach, reach), xticks=[])


dial = [0.02, 0.25, 0.5, 0.75, 0.98]
widgets.slider(draw, dial, label="time", alt="Shift, scale and gate of each feature at five times", width=plot.WIDTH)

# %% [markdown]
# Smooth in the middle by construction, ragged towards both ends: the time is no volume that is turned up, but another pattern of features at every moment. Gates have no preferred sign; a branch is subtracted as readily as added. The scales lean below zero: trained, the network mostly turns its normalised features down.
#
# ## And about the class?
#
# At $t = 0.5$ each of the 24 classes has a modulation: all blocks, six vectors, one long row of numbers. On the left, the two directions in which these rows differ most (PCA). On the right, what makes classes differ: the colour alone, the shape alone, or the *pair*, that is, what colour and shape do not explain by adding up.

# %% name="over-class"
by_class = six_vectors(torch.full((24,), 0.5), torch.arange(24))  # (blocks, six, classes, D)
centred = by_class - by_class.mean(dim=2, keepdim=True)
grid = centred.unflatten(2, (len(COLOURS), len(SHAPES)))
colour, shape = grid.mean(dim=3, keepdim=True), grid.mean(dim=2, keepdim=True)
power = {"colour": colour, "shape": shape, "pair": grid - colour - shape}
power = {name: part.expand_as(grid).square().sum(dim=(0, 2, 3, 4)) for name, part in power.items()}
whole = sum(power.values())
u, singular, _ = torch.linalg.svd(centred.permute(2, 0, 1, 3).flatten(1), full_matrices=False)
alt = "Left: 24 classes in the plane, grouped by colour. Right: shares of colour, shape and pair, the pair smallest"
with plot.figure(alt=alt, height=3.5) as fig:
    left, right = fig.subplots(1, 2, width_ratios=[1, 1.15])
    for k, (x, y) in enumerate((u[:, :2] * singular[:2]).tolist()):
        ink = {"yellow": "#E0B800", "pink": "#F070C0"}.get(COLOURS[k // 4], COLOURS[k // 4])
        left.scatter([x], [y], color=ink, marker="os^X"[k % 4], s=48)
    explained = singular.square() / singular.square().sum()
    left.set(xlabel=f"first direction, {explained[0]:.0%} of all", ylabel=f"second, {explained[1]:.0%}")
    bottom = torch.zeros(6)
    for (name, part), ink in zip(power.items(), ("#0072B2", "#E69F00", "#D55E00"), strict=True):
        right.barh([f"{kinds[i % 3]}, {('attention', 'perceptron')[i // 3]}" for i in range(6)], part / whole,
                   left=bottom, color=ink, label=name)  # fmt: skip
        bottom += part / whole
    right.set(xlabel="share of the difference between classes", xlim=(0, 1))
    right.invert_yaxis()
    right.grid(False)
    fig.legend(*right.get_legend_handles_labels(), loc="outside upper right", ncols=3)
print("of all:", ", ".join(f"{name} {part.sum() / whole.sum():.0%}" for name, part in power.items()))

# %% [markdown]
# The network was given 24 numbers without meaning and found that they are colours times shapes. That *this* shape has *that* colour is a small remainder.
#
# ## What can one vector not say?
#
# A modulation has no token axis. Switch the class, and the first block's input changes in every patch (upper row, three features). Take out what each patch's own value contributes, $\gamma x$, and the same number is left everywhere (lower row).
#
# Then ask for two things at once. One vector must hold both, so give the network the mean of "red circle" and "blue square". And, from the same noises, the mean for another caption with the same four words.

# %% name="uniform"
place = [data.class_names.index(name) for name in ("red circle", "blue square")]
switch = six_vectors(torch.full((2,), 0.5), torch.tensor(place))[0, :2].diff(dim=1)[:, 0]  # of shift and of scale
own = normed[0].cpu() * switch[1]
change = own + switch[0]
alt = "Change of three features, patch by patch, and the same without each patch's own value: one colour everywhere"
with plot.figure(alt=alt, width=6.4, height=3.2) as fig:
    for feature, (upper, lower) in zip(change.std(dim=0).topk(3).indices, fig.subplots(2, 3).T, strict=True):
        reach = float(change[:, feature].abs().max())
        for axes, shown in ((upper, change[:, feature]), (lower, (change - own)[:, feature])):
            axes.imshow(shown.view(4, 4), cmap="PuOr_r", vmin=-reach, vmax=reach)
            axes.set(xticks=[], yticks=[])
            axes.set_title(f"{shown.min():.2f} to {shown.max():.2f}", size=9)
            axes.grid(False)

captions = ["red circle", "blue square", "red circle + blue square", "red square + blue circle"]
words, rows = shipped.y_embedder.table.weight.detach().clone(), {}
vectors = [words[[data.class_names.index(name) for name in caption.split(" + ")]].mean(dim=0) for caption in captions]
for caption, vector in zip(captions, vectors, strict=True):
    mine.y_embedder.table.weight.data[0] = vector  # your network with the shipped weights: class 0 means this now
    rows[caption] = sample(mine, torch.zeros_like(eight), noise[:8])
plot.sample_rows(rows, alt="Red circles, blue squares, and two mixtures of both that look alike")
print(f"from red circle to blue square {(vectors[0] - vectors[1]).norm():.2f}, ", end="")
print(f"from one mixture to the other {(vectors[2] - vectors[3]).norm():.2f}")

# %% [markdown]
# Compare the two mixtures column by column. Colour and shape nearly add up, so red, circle, blue and square make nearly one vector, whoever is red, and from it comes one thing in between. (In fairness: this network never saw two objects.)
#
# A vector with more room could hold the pairs. It would still tell every patch the same, and leave it to the blocks to work out who is meant. A caption with two objects asks for more: each patch fetches *its* words. That is cross-attention, and lesson 9 measures both on such captions.
#
# ## Can you see a difference in a minute?
#
# Two small networks of your own classes, width 64. One run each, one seed, losses only: they decide nothing. The records below do.


# %% name="train"
def learn(net, work, lr=2e-3):
    loss, tensors = denoising_loss(flow, label_dropout=0.1), (data.images, data.labels)
    return fit(net.to(device), tensors, loss, steps=work, lr=lr, warmup=20, ema=0.99, progress=False)


work, losses = budget.choose(smoke=12, laptop=350, gpu=3000), {}
for name, way in (("adaLN-Zero", "adaln-zero"), ("in-context", "in-context")):
    torch.manual_seed(0)
    losses[name] = learn(DiT(replace(small, conditioning=way)), work)
    print(f"{name}: {work} steps, {losses[name].seconds:.0f} s, peak memory {losses[name].peak_memory_mb:.0f} MB")
print(f"on {device}; budget: {budget.name}")
plot.losses(losses, alt="Training losses of a small adaLN-Zero and a small in-context DiT")

# %% [markdown]
# ## Which way wins?
#
# Recorded runs, seeds paired. First equal width, as in the first figure, with the paper's column beside it; then equal parameters, where the lighter ways get more width.


# %% name="ablation-ways"
def verdicts(record):
    plan, first = record.configuration, record.x["values"][0]
    print(f"— {record.title}: {plan['steps']} steps of {plan['batch_size']}, {len(record.seeds)} seeds —")
    for metric, better, at in (("fd_judge", "lower", first), ("fd_judge", "lower", end), ("accuracy", "higher", end)):
        print(results.verdict(record, metric, better=better, at=at))


def last(record, metric, label, better):
    found = {name: record.values(name, metric, at=end) for name in record.variants}
    plot.intervals(found, xlabel=label, better=better, alt=f"{label} at the end, a dot for each seed, with intervals")


print(f"{'equal width':17}{'FD-judge':>9}{'as asked':>10}{'weights':>12}{'MMAC':>7}   XL/2, Table 4: FID-50K")
for name in ways.variants:
    fd, right, macs_of, weights = (results.interval(ways.values(name, metric, at=end))[0] for metric in ways.metrics)
    print(f"{name:17}{fd:>9.1f}{right:>10.1%}{weights:>12,.0f}{macs_of:>7.1f}{table_4[name.lower()][2]:>26.2f}")
seen = ways.configuration["steps"] * ways.configuration["batch_size"]
print(f"pictures seen: {seen:,} here, {400_000 * 256:,} there\n")
equal = results.load("adaln_ways_equal")
curves(equal, "fd_judge", "FD-judge, equal parameters", logy=True)
for record, what in ((ways, "equal width"), (equal, "equal parameters")):
    last(record, "accuracy", f"share as asked, {what}", "higher")
    verdicts(record)
revisit("adaln.q1")

# %% [markdown]
# The intervals write the sentences. Where one says that no difference is established, the order of two means is no finding, however well it fits the paper. Two limits: these runs are short and show who learns *first*, at four blocks and 24 classes; and our adaLN starts from zeros as well, deaf but not silent, so that between it and adaLN-Zero stands the gate alone.
#
# ## Which zero matters, and what does sharing cost?
#
# adaLN-Zero from four starts; then one shared layer against one in every block, at equal width and with the saved weights spent on width.

# %% name="ablation-start"
zero, single = results.load("adaln_zero"), results.load("adaln_single")
curves(zero, "fd_judge", "FD-judge, by what is zero", logy=True)
verdicts(zero)
revisit("adaln.q2")
curves(single, "fd_judge", "FD-judge, own layers or one", logy=True)
last(single, "fd_judge", "FD-judge, own layers or one", "lower")
verdicts(single)
print(f"\nadaLN-Gaussian, as reported: FID 20.02 → 17.86, {20.02 - 17.86:.2f} points or {(20.02 - 17.86) / 20.02:.1%}")

# %% [markdown]
# Compare with the fresh blocks above: with a small condition the gate alone makes a block nearly silent, and the zeros can add a head start at most. With 28 blocks in place of four there is more to go wrong. adaLN-Gaussian claims faster training at XL/2, not a better end; the "2.16 %" of its abstract are FID *points* (the two FIDs reached us second-hand). PixArt-α reports
# a somewhat worse FID for sharing and judged the pictures equal (§3.3).

# %% [markdown] exercise_card="dit.block_bug"
# ## What is wrong with this block? (Exercise 7.7 · find the bugs)
#
# adaLN-Zero is copied from page to page, and so are its errors. The next cell first runs three that torch catches, unless two widths happen to be equal. Then a block with three more that nobody catches, on a fresh network and with the shipped weights.
#
# **Your turn.** Below it stands that block. Its parts are right; mend `forward` in place.

# %% name="symptom" cellView="form"
tokens, narrow = torch.randn(2, 16, 64), torch.randn(2, 24)
snippets = {
    "a layer of the tokens' width, a condition of another": lambda: Modulation(64, 6)(narrow),
    "a layer of the condition's width, tokens of another": lambda: modulate(tokens, *Modulation(24, 2)(narrow)),
    "one shift and scale for tokens and for the perceptron's hidden layer": lambda: modulate(
        nn.Linear(64, 256)(tokens), *Modulation(64, 2)(tokens[:, 0])
    ),
}
for name, attempt in snippets.items():
    try:
        attempt()
    except RuntimeError as problem:
        print(f"{name}:\n    {problem}")
bug = REGISTRY["dit.block_bug"]
Student, rows = bug.adopt(bug.mistake(bug.broken).function), {"the library's": sample(shipped, eight, noise[:8])}
torch.manual_seed(0)
net = DiT(shipped.config).to(device)
tokens, heard = torch.randn(8, 16, 128, device=device), [torch.randn(8, 128, device=device)] * 2
with torch.no_grad():
    before = net.run_blocks(tokens, heard)
    for block in net.blocks:
        block.__class__ = Student
    apart = (before - net.run_blocks(tokens, heard)).abs().max()
print(f"fresh blocks, the student's against the library's: difference {apart}")
net.load_state_dict(shipped.state_dict())
rows["the student's"] = sample(net, eight, noise[:8])
plot.sample_rows(rows, column_titles=names, alt="Samples with the library's block and with the student's, same weights")

# %% exercise="dit.block_bug"
from lesson_lib.dit import AdaLNZeroBlock

# %% name="check-block-bug"
AdaLNZeroBlock = check("dit.block_bug", AdaLNZeroBlock)

# %% [markdown] hints="dit.block_bug"
# idea: write the equation of 7.2 beside each line, and count how often $x$ stands in it.
# pseudo-code: a gate multiplies what its branch returns, and only that; the shortcut is $x$ as it came; each branch has three vectors of its own.
# most common error: testing on a fresh block. With gates of zero almost every wrong block is the identity, as the right one is. Give a test random weights, and sizes that all differ.

# %% [markdown]
# Some errors send a message. These hide behind the zeros that make the block good.
#
# ## What did they break?
#
# Three more students. A trained the small network anew. B changed the shipped network and trained it on. C only sampled from it. Run the next cell without reading it: what did each do?

# %% name="break-it-run" cellView="form"


def copied():
    net = DiT(shipped.config).to(device)
    net.load_state_dict(shipped.state_dict())
    return net


torch.manual_seed(0)
a, further, b = DiT(small), copied(), copied()
for part in [block.adaLN_modulation for block in a.blocks] + [a.final_layer.adaLN_modulation]:
    part.register_forward_hook(lambda _, c, six: tuple(v - float(k % 3 == 1) for k, v in enumerate(six)))
b.y_embedder.table.weight.requires_grad_(False).copy_(words[-1:].expand_as(words))


class C(nn.Module):
    num_classes = shipped.num_classes

    def forward(self, x, t, labels):
        return shipped(x, torch.full_like(t, flow.model_time(torch.ones(1)).item()), labels)


short = budget.choose(smoke=6, laptop=100, gpu=500)
curves_of = {"small, sound": losses["adaLN-Zero"].losses[:short], "A": learn(a, short)}
curves_of |= {"shipped, sound": learn(further, short, lr=5e-4), "B": learn(b, short, lr=5e-4)}
plot.losses(curves_of, logy=True, alt="A's loss stays level; B's lies above the sound network's")
begin = torch.randn(96, 3, 16, 16, generator=budget.generator(4), device=device)
orders, rows = torch.arange(96, device=device) % 24, {}
for name, net in {"shipped": shipped, "A": a, "B": b, "C": C()}.items():
    rows[name] = sample(net, eight, noise[:8])
    hits = int(prompt_hits(sample(net, orders, begin), orders, judge)["colour"].sum())
    share, low, high = results.proportion_interval(hits, len(orders))
    print(f"{name:8} {share:6.1%} of {len(orders)} in the colour that was asked for [{low:.1%}, {high:.1%}]")
alt = "Sound samples; A: noise. B: clean shapes of other classes. C: shapes under noise"
plot.sample_rows(rows, column_titles=names, alt=alt)

# %% [markdown]
# <details><summary>A</summary>
#
# No `1 +` in `modulate`. The scales start at zero, so every branch and the last layer read zeros, and two factors of zero send each other no gradient. Only the last bias learns: the mean picture.
# </details>
# <details><summary>B</summary>
#
# B gave every class the null class's vector: the modulation hears the time only, as PixArt's does. There the words come in by cross-attention; here nothing else knows the class. The loss shows that something is missing, the orders show what.
# </details>
# <details><summary>C</summary>
#
# C read that the modulation "runs once a picture", computed it at the first step of sampling and kept it. The network believes to the end that it sees pure noise, and leaves noise. Once a picture *and a time*.
# </details>
#
# In your own words:

# %% name="in-words"
prose("adaln.w1", """""")

# %% [markdown]
# ## Where is this in the real code?
#
# | code | what differs from yours |
# |---|---|
# | facebookresearch/DiT, `models.py` | nothing in the block; time and class only, no text |
# | PixArt-alpha/PixArt-alpha, `diffusion/model/nets/PixArt.py` | time only; words by cross-attention, whose last layer starts at zero |
# | openai/guided-diffusion, `guided_diffusion/unet.py` | AdaGN: scale before shift, no gate |
# | Stability-AI/sd3-ref, `mmdit.py` | time and a *pooled* text vector in $c$; six vectors for the picture, six for the words |
# | black-forest-labs/flux, `src/flux/modules/layers.py` | the same; single blocks have one gate for both branches |
#
# **A trap.** A file of weights does not say in which order shift and scale stand in a layer. A converter that swaps them loads without complaint.
#
# ## What have you got now?
#
# * A modulation is a line for each feature: slope $1 + \gamma$, height $\beta$, the same for every patch of a picture.
# * A gate of zero makes a fresh block the identity. The code zeroes all six vectors; for that the gates would do.
# * The layers that listen hold a third of the weights and almost none of the arithmetic.
# * Which way learns first at this size, the verdicts say; that is all they say.
#
# So tune a transformer to what concerns the whole picture, and let it *ask* for what concerns a part. Lesson 8 first gives it a better sense of place.
#
# From now on you can import every way of `lesson_lib.dit`. Three references:
#
# * Peebles and Xie, *Scalable diffusion models with transformers* (DiT, arXiv 2212.09748): §3.2, and Table 4 with its caption.
# * Perez and others, *FiLM* (arXiv 1709.07871): where slope and height come from.
# * Chen and others, *PixArt-α* (arXiv 2310.00426): §2.3, sharing.

# %% name="score"
score("07")
