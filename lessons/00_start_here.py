# %% [markdown] title_card="00"
# # 0 · What will I be able to do?
#
# *A small network turns noise into the picture you ask for, on your machine, in seconds. At the end of this course you can write every line of such a
# network, say why each line is there, and show by measurement which lines matter.*

# %% name="setup" lesson="00"
from lesson_lib.setup import start_lesson

budget = start_lesson("00")

# %% [markdown]
# The line above names your machine, your versions and your **budget**. If something breaks, paste that line into your report: it is the
# first thing that anybody will ask for.
#
# ## Can you show me one first?
#
# Press *Run All* and read on. The next cell loads a trained network from this repository and hands it 24 pieces of noise, each with an order:
# one of six colours, one of four shapes.

# %% name="first-sample"
import time

import torch

from lesson_lib import diagrams, plot, samplers, widgets
from lesson_lib.data import COLOURS, SHAPES, digits, load_shapes
from lesson_lib.evaluate import load_judge, prompt_hits
from lesson_lib.exercises import LESSONS, check, predict, progress, revisit
from lesson_lib.experiments.shipped import load_shipped
from lesson_lib.flow import x0_from_velocity
from lesson_lib.guidance import Guided
from lesson_lib.results import proportion_interval

started = time.perf_counter()
model, process = load_shipped("shapes-flow", budget.device)
orders = torch.arange(24, device=budget.device)  # colour * 4 + shape
noise = torch.randn(24, 3, 32, 32, generator=budget.generator(), device=budget.device)
steps = budget.choose(smoke=4, laptop=25, gpu=50)
path = samplers.euler(Guided(model, orders, 2.0), noise, steps, process, trajectory=True)
images = path[-1]
print(
    f"{sum(p.numel() for p in model.parameters()):,} weights · 24 pictures · {steps} steps · {time.perf_counter() - started:.1f} s"
)

# %% [markdown]
# Each row is a colour, each column a shape. No picture here is stored anywhere: change the seed in `start_lesson("00", seed=1)` and you get 24 others.

# %% name="first-picture"
plot.sample_rows(
    {colour: images[4 * i : 4 * i + 4] for i, colour in enumerate(COLOURS)},
    column_titles=list(SHAPES),
    alt="Twenty-four sampled pictures: six rows of colours, four columns of shapes, each drawn by the shipped network",
)

# %% [markdown]
# Did it do as it was told? Now and then a cell stays empty, or a corner comes out round. You could count by eye. The course has a **judge** instead: a second, small network that reads colour and shape back from
# a picture. It knows nothing about how the picture was made. (Its own error rate on pictures it had not seen is in `data/checkpoints/README.md`.)

# %% name="first-measurement"
judge = load_judge(budget.device)
hits = prompt_hits(images.clamp(-1, 1), orders, judge)["all"]
share, low, high = proportion_interval(int(hits.sum()), len(hits))
print(f"{int(hits.sum())} of {len(hits)} pictures show the colour and the shape that were asked for")
print(
    f"that is {share:.0%}; with so few pictures the true share may lie anywhere from {low:.0%} to {high:.0%} (95 % Wilson interval)"
)

# %% [markdown]
# The second line is the habit that this course wants to give you. A number without its uncertainty is an anecdote. Every claim in these notebooks is
# computed in a cell that you can run, read from a recorded experiment that you can repeat, or cited with its table.
#
# ## How does noise become that?
#
# A sampler asks the network again and again: *given this noisy picture, which way is less noise?* It takes a short step that way and asks again. Below are four
# orders on their way, from pure noise on the left to the result on the right.

# %% name="trajectory"
stops = [round(i * steps / 7) for i in range(8)]
chosen = [0, 6, 13, 19]  # a red circle, a yellow triangle, a blue square, a pink cross
plot.trajectory(
    path[stops][:, chosen],
    [f"step {stop}" for stop in stops],
    labels=[f"{COLOURS[i // 4]} {SHAPES[i % 4]}" for i in chosen],
    alt="Four pictures on their way from noise to a red circle, a yellow triangle, a blue square and a pink cross",
)

# %% [markdown]
# What settles first: the colour, the place or the shape? At every stop the network already has an opinion about the finished picture: follow its velocity
# to the end in one stride. Show that opinion to the judge, and count how often it agrees with the picture that finally comes out.

# %% name="what-settles-first"
guided = Guided(model, orders, 2.0)
times = process.grid(steps)[stops[:-1]]
final = judge.read(images.clamp(-1, 1))
agreement: dict[str, list[float]] = {"colour": [], "place": [], "shape": []}
for stop, t in zip(stops, times, strict=False):
    now = t.float().expand(24).to(budget.device)
    with torch.no_grad():
        opinion = x0_from_velocity(path[stop], guided(path[stop], process.model_time(now)), now)
    seen = judge.read(opinion.clamp(-1, 1))
    for name, values in agreement.items():
        values.append(100 * (seen[name][:, 0] == final[name][:, 0]).float().mean().item())
plot.lines(
    (100 * (1 - times)).tolist(),
    agreement,
    xlabel="way from noise to picture (%)",
    ylabel="agrees with the result (%)",
    alt="Share of 24 pictures whose predicted colour, place and shape already agree with the final picture, along the way",
)

# %% [markdown]
# A line that reaches the top early names what is decided early. These are 24 pictures, one of them a twenty-fourth of the height, so read no order into small gaps.
# What you can read: most is settled while the picture still looks like noise. Lesson 01 explains why, and lets you build the four samplers that the field uses.
#
# ## Can I order something myself?
#
# Choose from the menu. In a live notebook a picture for every order is ready, so the menu answers at once; on a printed page you see a few of them.

# %% name="menu-samples"
fixed = torch.randn(1, 3, 32, 32, generator=budget.generator(7), device=budget.device).repeat(24, 1, 1, 1)
menu_images = samplers.euler(Guided(model, orders, 2.0), fixed, steps, process)

# %% name="menu"
names = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
widgets.menu(
    names,
    [image[None] for image in menu_images],
    label="order",
    alt="One sampled picture for the order chosen in the menu",
)

# %% [markdown]
# ## Before you look: a guess
#
# All 24 pictures of the menu started from *the same* noise; only the order differed. So here is a question about what noise means to such a network. Make a guess
# before you run the cell after it. There are no points for being right; there is a point in having guessed, because a surprise is only possible against an
# expectation.

# %% name="predict"
predict("start.q1")

# %% [markdown]
# The next cell measures it: eight noises, all 24 orders from each, and the judge says where the object landed, on a grid of three by three places. Two pictures
# placed at random would agree about once in nine times.

# %% name="same-noise"
seeds = budget.choose(smoke=2, laptop=8)
places = []
for seed in range(seeds):
    start = torch.randn(1, 3, 32, 32, generator=budget.generator(100 + seed), device=budget.device)
    out = samplers.euler(Guided(model, orders, 2.0), start.repeat(24, 1, 1, 1), steps, process)
    places.append(judge.read(out.clamp(-1, 1))["place"][:, 0])
pairs = torch.triu_indices(24, 24, offset=1)
agree = torch.stack([(place[pairs[0]] == place[pairs[1]]).float().mean() for place in places])
same_place = 100 * agree.mean().item()
print(f"same noise, different order: {same_place:.0f} % of the pairs share a place (chance: 11 %)")
revisit("start.q1", same_place)

# %% [markdown]
# Whatever you guessed, you have now done once what every lesson does: guess, build, measure, compare.
#
# ## Where does the course go?
#
# Eleven lessons, each a notebook like this one. An arrow means "uses what you built there". You can stop at any box and have something that works.

# %% name="map"
diagrams.course_map(
    alt="Map of the course: lessons 00 to 10 as boxes, arrows from each to the lessons that build on it", here="00"
)

# %% [markdown]
# - **How diffusion works (01, 02).** Noise, the four samplers, rectified flow; how a network hears the time and the class; guidance.
# - **The first architecture (03, 04).** The U-Net that ruled for seven years, and the latent space that made large pictures affordable.
# - **The transformer (05, 06, 07).** An image as a sentence, the diffusion transformer (DiT), and the five ways in which it can listen.
# - **Places and words (08, 09, 10).** Rotary positions in every variant that image models use, captions, and the joint attention of MMDiT, which
#   Stable Diffusion 3 and FLUX are made of.
#
# Each lesson ends with code that computes what the public implementation computes. That is tested: weights are moved from theirs to ours, and the outputs
# must agree to five decimals.
#
# The lessons that exist in your copy, with their minutes and points:

# %% name="lessons"
for number, card in LESSONS.items():
    print(
        f"{number}  {card.title:<22} {card.minutes:>4} min {card.points:>3} {'point ' if card.points == 1 else 'points'}   {card.question}"
    )

# %% [markdown]
# ## What will I train on?
#
# Two data sets come with the course, so that everything runs without a network. The first is **shapes**: drawings made by the library, one or two objects with
# colour, shape, size and place, and a caption. Because the truth about every picture is known, a claim such as "it drew the right colour" can be counted.

# %% name="shapes"
drawings = load_shapes("test")
plot.sample_grid(
    drawings.images[:8],
    titles=list(drawings.captions[:8]),
    columns=4,
    alt="Eight pictures of the shapes set with their captions, one or two coloured objects on a light ground",
)
print(drawings)

# %% [markdown]
# The second is **digits**: 1,797 real handwritten digits of eight by eight pixels that come with scikit-learn. They are tiny, and they are real: written by people,
# with all the mess of handwriting. In lesson 02 you train a network on them that writes the digit you ask for.

# %% name="digits"
real = digits("train")
first = [int((real.labels == label).nonzero()[0]) for label in range(10)]
plot.sample_grid(
    real.images[first],
    columns=10,
    titles=[str(label) for label in range(10)],
    alt="One real handwritten digit of each class, 0 to 9",
)
print(real)

# %% [markdown]
# With a network connection any image set of the Hugging Face hub opens through the same door: `lesson_lib.data.hub("fashion_mnist")`, or the name of another set, or a
# folder of Parquet files on your disk.
#
# ## How do exercises work?
#
# A cell with `raise NotImplementedError` is yours. Replace that line, run the cell, run the `check` below it. The check
# runs your function on random inputs and climbs a ladder: does it run, is the shape right, is the argument left alone, are the values right, does the gradient
# flow. It stops at the first rung that breaks and says what it saw. If your mistake is one that others have made before, it says which one.
#
# Nothing stops you. A cell that you leave empty is replaced by the library's solution, so *Run All* always reaches the end. Hints are folded under each exercise:
# first the idea, then pseudo-code, then the most common error. The full solutions are in `lesson_lib/`; reading them is allowed, and reading them *after* trying
# teaches more.
#
# Here is a warm-up with everything that a real exercise has.

# %% [markdown] exercise_card="noise.to_pixels"
# ### Exercise 0.1 · `to_pixels`
#
# Networks like numbers around zero, screens want numbers from 0 to 1. Write the map from one to the other: -1 becomes 0, 0 becomes one half, 1 becomes 1. A
# sampler can overshoot, so cut off what still lies outside.
#
# Input: `images`, any shape, mostly in [-1, 1]. Output: the same shape, in [0, 1]. Leave the argument as it is.

# %% exercise="noise.to_pixels"
from lesson_lib.noise import to_pixels

# %% name="check-to_pixels"
to_pixels = check("noise.to_pixels", to_pixels)

# %% [markdown] hints="noise.to_pixels"
# idea: Two operations move and shrink a range; one more cuts off the ends. A tensor has a method for the last.
# pseudo-code: add one, divide by two, clamp from 0 to 1.
# most common error: dividing before adding. Then -1 becomes one half, and everything that was dark turns grey.

# %% [markdown]
# The picture below is drawn with *your* function if it passed, and with the library's if it did not. The dotted lines are the ends of the range.

# %% name="to_pixels-picture"
inputs = torch.linspace(-1.6, 1.6, 200)
with plot.figure(alt="The map to_pixels: a line from (-1, 0) to (1, 1), flat outside", width=6, height=2.6) as figure:
    axes = figure.subplots()
    axes.plot(inputs, to_pixels(inputs), linewidth=2)
    for end in (0, 1):
        axes.axhline(end, color="0.5", linestyle=":", linewidth=1)
    axes.set(xlabel="number from the network", ylabel="number for the screen")

# %% [markdown]
# ## What are points and budgets?
#
# Every exercise is worth points, according to its difficulty. `progress()` draws the map once more, with yours in it. They lie in a file called `progress.json` beside
# the notebook: there is no account and no server, and nothing leaves your machine. On Colab the file goes with the session; download it from the *Files* panel before
# you leave, and put it back there when you return.

# %% name="progress"
progress()

# %% [markdown]
# A **budget** says how much work a cell may do. It was chosen from your device in the first cell. To choose another, set the variable `LESSON_BUDGET` before you start Jupyter;
# on Colab, run `%env LESSON_BUDGET=laptop` in a cell above the first one.
#
# | budget | meant for | one lesson takes |
# |---|---|---|
# | `smoke` | the course's own tests | under a minute; the pictures are unfinished |
# | `laptop` | two to eight CPU cores | under 6 minutes |
# | `gpu` | a Colab GPU | under 12 minutes |
# | `long` | a large GPU | what the recorded experiments can use |
#
# A cell asks its budget for a number, and gets the one that fits. This is the cell's whole knowledge of your machine:

# %% name="budget"
print(f"this budget is {budget.name!r}; a cell that asks for steps gets {budget.choose(smoke=4, laptop=25, gpu=50)}")

# %% [markdown]
# Do you read with a screen reader? Start Jupyter with `LESSON_ALT=1`, and every figure's description is printed below it.
#
# Where a comparison needs more than your budget allows, the lesson shows a recorded experiment: a file in `data/results/` with the configuration, the machine, and the outcome of every
# seed. `python -m lesson_lib.experiments NAME` runs it again.
#
# ## Notation and glossary
#
# The same letters mean the same things in all lessons.
#
# | letter | meaning |
# |---|---|
# | `B` | batch: how many pictures at once |
# | `C, H, W` | channels, height, width of a picture |
# | `N, D` | number of tokens, width of a token |
# | `h, d` | attention heads, width of one head |
# | `p` | side of a patch, in pixels |
# | $x_0$ | a clean picture, values in [-1, 1] |
# | $\epsilon$ | noise: independent normal numbers in the shape of the picture |
# | $x_t$, $z_t$ | the noisy picture at time $t$, in diffusion and in rectified flow |
# | $t$ | time; **large $t$ is noise** everywhere in this course. In diffusion it counts steps from 0 to $T - 1$, in rectified flow it runs from 0 to 1. Every network is fed a number from 0 to 1000 |
# | $\bar\alpha_t$ | share of the variance that is still signal at step $t$ |
# | $v$, $u$ | two other things a network may predict: $v$ mixes noise and picture, $u$ is the velocity from picture to noise |
# | $s$ | guidance scale; 1 means no guidance |
#
# | word | meaning |
# |---|---|
# | **denoiser** | the network: noisy picture and time in, a prediction about the noise out |
# | **process** | how data becomes noise, and what the network predicts: `Diffusion` or `RectifiedFlow` |
# | **sampler** | the loop that goes from noise back to a picture by asking the denoiser |
# | **schedule** | how much noise each step of a diffusion has |
# | **condition** | what the network is told besides the noisy picture: the time, a class, a caption |
# | **null class** | one more class that means "no class"; needed for guidance |
# | **guidance** | pushing the prediction away from the one without a condition |
# | **EMA** | exponential moving average of the weights; what we sample from |
# | **judge** | the small network that reads a picture's attributes back, so that claims can be counted |
# | **FD-judge** | Fréchet distance between two sets of pictures in the judge's features. It is not FID, which uses another network on other pictures |
# | **network call** | one evaluation of the denoiser on a batch; the honest unit of a sampler's cost |
# | **seed** | a number that fixes all random choices of one training. One seed is one run of an experiment, not a result |
#
# ## What now?
#
# Open [lesson 01](01_noise_and_flow.ipynb). You need Python, a little linear algebra (vectors, matrices, what a mean and a variance are) and the basics of PyTorch: what a tensor is,
# what a module is, and that `backward` computes gradients. Nothing about diffusion is assumed.
#
# From this lesson you can import `lesson_lib.noise.to_pixels`, `lesson_lib.data.load_shapes`, `lesson_lib.data.digits` and `lesson_lib.experiments.shipped.load_shipped`.
#
# Three texts to keep at hand:
#
# - Ho, Jain and Abbeel, *Denoising Diffusion Probabilistic Models* (arXiv 2006.11239): the paper that started the line; section 3.2 is the loss you will train.
# - Peebles and Xie, *Scalable Diffusion Models with Transformers* (arXiv 2212.09748): the transformer that lessons 06 and 07 rebuild.
# - Esser and others, *Scaling Rectified Flow Transformers* (arXiv 2403.03206): Stable Diffusion 3, where flow, text and MMDiT meet.
