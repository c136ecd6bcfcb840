# %% [markdown] title_card="01"
# # 1 · How does noise become an image?
#
# *Ruining a picture is easy: add noise until nothing is left. No network is needed for that, and each small part of it can be undone, if somebody
# tells you which noise was added. What exactly must a network learn to say, how is its answer turned into a step, and how many steps does a picture
# need?*

# %% name="setup" lesson="01"
from lesson_lib.setup import start_lesson

budget = start_lesson("01")

# %% [markdown]
# ## The picture to explain
#
# A shipped network starts from four tensors of pure noise, is told a class for each, and is called a few dozen times. Time runs from 1, noise, to 0,
# picture. Watch what is decided first, what last. Under it is the one plot of this lesson: four ways to walk from noise to picture, at equal numbers of
# network calls.

# %% name="picture-first"
import torch

from lesson_lib import plot, results, samplers, widgets
from lesson_lib.data import COLOURS, SHAPES, digits, shapes, toy_points
from lesson_lib.denoiser import ConvDenoiser, PointDenoiser
from lesson_lib.evaluate import class_accuracy, count_macs
from lesson_lib.exercises import check, predict, prose, revisit, score
from lesson_lib.experiments.shipped import DATA_SETS, RECIPES, load_shipped
from lesson_lib.flow import RectifiedFlow, interpolate, shift_times
from lesson_lib.noise import Diffusion, score_from_eps, v_target, x0_from_v
from lesson_lib.official.parity import parity
from lesson_lib.train import denoising_loss, fit

model, process = load_shipped("shapes-flow", budget.device)
orders = torch.tensor([0, 9, 14, 19], device=budget.device)  # colour * 4 + shape
start = torch.randn(4, 3, 32, 32, generator=budget.generator(1), device=budget.device)
steps = budget.choose(smoke=14, laptop=56)
path = samplers.euler(lambda x, t: model(x, t, orders), start, steps, process, trajectory=True)
names = [f"{COLOURS[order // 4]} {SHAPES[order % 4]}" for order in orders.tolist()]
times = process.grid(steps).tolist()
plot.trajectory(path, times, labels=names, alt="Four rows of noise that become pictures of shapes")

# %% name="quality-plot"
ablation = results.load("sampler_steps")
quality = {name: ablation.variants[name]["fd_judge"] for name in ablation.variants}
labels = {"xlabel": "network calls for each picture", "ylabel": "FD-judge (lower is better)"}
alt = "FD-judge of four samplers against the number of network calls, mean and interval over the seeds"
plot.curves(ablation.x["values"], quality, **labels, logx=True, logy=True, alt=alt)
print(ablation.configuration["data"], "·", ablation.configuration["steps"], "training steps ·", ablation.hardware)

# %% [markdown]
# Read a curve from left to right: where it is level, further calls are wasted; where it is steep, they pay. FD-judge is a distance between two
# clouds of features, of samples and of real pictures. By the end you can write all four samplers and explain this picture.
#
# ## Before you look: two guesses
#
# You will see them again beside the measurements.

# %% name="guesses"
predict("noise.q1")
predict("flow.q1")

# %% [markdown]
# ## Which symbols will you meet?
#
# | symbol | in code | shape | meaning |
# |---|---|---|---|
# | $x_0$ | `x0` | `(B, …)` | data: pictures in [-1, 1], or points in the plane |
# | $\epsilon$ | `noise`, `eps` | like $x_0$ | standard normal noise, and a network's guess of it |
# | $\beta_t$ | `betas` | `(T,)` | the share of noise that step $t$ adds |
# | $\bar\alpha_t = \prod_{s \le t}(1-\beta_s)$ | `alpha_bar` | `(B,)` | the share of the variance that is still data |
# | $x_t,\ z_t$ | `x_t`, `z` | like $x_0$ | something between data and noise: by diffusion, by flow |
# | $v,\ u$ | `v`, `velocity` | like $x_0$ | two other things that a network may predict |
# | $t$ | `t` | `(B,)` | time: 0 … 999 in diffusion, 0 … 1 in a flow. **Large is noise** |
#
# ## What are the parts?
#
# Something that ruins, a network that answers, a rule that turns the answer into a step, and a loop. Here they are as dummies: it runs, and it makes
# nothing. You replace one after another. Every stop has the shape of a picture, and one network serves them all, told only the time.


# %% name="skeleton"
def dummy_ruin(x0, eps):  # exercises 1.1 and 1.5
    return x0 + eps


def dummy_network(x_t, t):  # trained three times below
    return torch.zeros_like(x_t)


def dummy_step(x_t, answer, t):  # exercises 1.2, 1.3, 1.4 and 1.6
    return x_t - 0.25 * answer


real = digits("train")
batch = real.images[:8]
x_t = dummy_ruin(batch, torch.randn(batch.shape))
trace = {"pictures": batch, "ruined": x_t}
for t in torch.tensor([750.0, 500.0, 250.0]).split(1):
    x_t = dummy_step(x_t, dummy_network(x_t, t.expand(len(x_t))), t)
    trace[f"after a step at t = {t.item():.0f}"] = x_t
for what, tensor in trace.items():
    print(f"{what:<24} {tuple(tensor.shape)}")

# %% [markdown] exercise_card="noise.add_noise"
# ### Exercise 1.1 · How much noise is how much? `add_noise`
#
# You could add noise in a thousand small steps. You need not: sums of normal numbers are normal, so one jump does the same. Mix picture and noise so
# that the *variance* stays 1:
#
# $$ x_t = \sqrt{\bar\alpha_t}\; x_0 + \sqrt{1-\bar\alpha_t}\; \epsilon $$
#
# The shares $\bar\alpha$ and $1-\bar\alpha$ add up to 1. Sizes are roots of shares.
#
# Write the equation. `x0` and `noise` are pictures `(B, C, H, W)` or points `(B, 2)`; `alpha_bar` is `(B,)`, one number for each picture, and
# `expand(alpha_bar, x0)` gives it the trailing axes it needs to meet pixels. Change no argument.
#
# Points in the plane show what pictures hide, so every method here meets them first. Below the check your function ruins two moons.

# %% exercise="noise.add_noise"
from lesson_lib.noise import add_noise

# %% name="check-add_noise"
add_noise = check("noise.add_noise", add_noise)

# %% [markdown] hints="noise.add_noise"
# idea: Two terms, each a coefficient for each picture times a tensor.
# pseudo-code: a = alpha_bar with trailing axes; root of a times x0, plus root of (1 - a) times noise.
# most common error: Leaving out the roots. Then the result of two unit variances has a variance below 1, and at the middle it is only a half.

# %% name="moons-ruined"
moons = toy_points("moons", 4000, budget.generator(2))
moons_noise = torch.randn(moons.shape, generator=budget.generator(3), device=budget.device)
ruined = {f"ᾱ = {a:g}": add_noise(moons, moons_noise, torch.full((4000,), a).to(moons)) for a in (1.0, 0.9, 0.5, 0.01)}
ruined = {name: cloud[:1500] for name, cloud in ruined.items()}
plot.points(ruined, alt="Two moons dissolve into a round cloud as ᾱ falls")

# %% [markdown]
# At the right the moons are gone. What is left is a cloud that you can draw without a network, and that is where sampling starts.
#
# ## Which ᾱ belongs to which step?
#
# That is the **schedule**, and here is a trap: two schedules are called *linear*. In DDPM's, $\beta$ rises in a line; in latent diffusion's, its root
# does. A third, the cosine schedule of improved DDPM, draws $\bar\alpha$ itself as a squared cosine.
#
# How much of the picture is left, then? On the left its size; on the right the same on a scale where both ends are visible, the logarithm of signal to
# noise, $\log \bar\alpha/(1-\bar\alpha)$.

# %% name="schedules"
betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)  # DDPM, ADM, DiT
roots = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64)  # latent diffusion, Stable Diffusion
schedules = {"linear": Diffusion(betas), "ldm-linear": Diffusion(roots**2), "cosine": Diffusion.cosine()}
with plot.figure(alt="Size of the signal and log signal-to-noise ratio over the steps, for three schedules") as fig:
    left, right = fig.subplots(1, 2)
    for row, (name, schedule) in enumerate(schedules.items()):
        a_bar, colour = schedule.alpha_bar, plot.COLOUR[name]
        left.plot(a_bar.sqrt(), color=colour)
        right.plot((a_bar / (1 - a_bar)).log(), color=colour)
        left.text(20, 0.26 - 0.11 * row, name, color=plot.ink(colour), weight="bold")
    left.set(xlabel="step t", ylabel="size of the signal √ᾱ")
    right.set(xlabel="step t", ylabel="log ᾱ/(1 - ᾱ)")

white = torch.ones(500, 1, 8, 8)
g = torch.Generator().manual_seed(4)
for name, schedule in schedules.items():
    last = schedule.alpha_bar[-1]
    glow = add_noise(white, torch.randn(white.shape, generator=g), last.float().expand(500)).mean()
    equal = int((schedule.alpha_bar < 0.5).nonzero()[0])
    print(f"{name:<10} ᾱ = ½ at step {equal} · last step: √ᾱ {last.sqrt():.4f}, mean of white pictures {glow:+.3f}")

# %% [markdown]
# Look at the last column. Ruin 500 white pictures to the last step, and under latent diffusion's "linear" their mean stays above zero: a little of
# every picture **leaks** through. Such a network has never seen pure noise, yet pure noise is what you hand it. So when a paper says "linear", ask: in
# $\beta$, or in $\sqrt\beta$ (`scaled_linear` in diffusers)?
#
# Now turn the dial. Both rows are at the same step.

# %% name="noise-dial"
some = shapes(60, seed=5)
four = torch.stack([some.images[some.labels % 4 == shape][shape] for shape in range(4)])
four_noise = torch.randn(four.shape, generator=torch.Generator().manual_seed(6))
stops = [0, 50, 100, 200, 300, 400, 500, 600, 800, 999]


def dial(t):
    rows = {name: schedules[name].alpha_bar[t].float().expand(4) for name in ("linear", "cosine")}
    rows = {name: add_noise(four, four_noise, level) for name, level in rows.items()}
    plot.sample_rows(rows, alt=f"Four pictures at step {t}, under two schedules")


widgets.slider(dial, stops, label="noise level: step t", alt="Four pictures of shapes at rising noise levels")

# %% [markdown]
# Under *linear* the last trace of a shape goes much earlier. The step number means nothing by itself; $\bar\alpha_t$ does.
#
# ## What should the network say?
#
# Given $x_t$ and $t$, it may name the noise $\epsilon$, or the picture $x_0$. Each follows from the other, because their mixture is known. Draw $x_0$
# and $\epsilon$ as two axes (noise is almost orthogonal to any picture), and all choices are in one drawing. Diffusion walks the arc, a flow the chord.
# `v` is the direction of the arc at $x_t$, `u` that of the chord (both drawn shorter than they are). `eps`, `x0`, `v`, `u`: four dialects, one meaning.

# %% name="geometry"
arrows = {  # name: tail, direction, place of the label
    "x0": ((0, 0), (1, 0), (1.03, -0.02)),
    "eps": ((0, 0), (0, 1), (-0.16, 1.0)),
    "v": ((0.819, 0.574), (-0.287, 0.41), (0.6, 0.99)),
    "u": ((0.6, 0.4), (-0.4, 0.4), (0.1, 0.68)),
}
alt = "A quarter circle and a chord from x0 to eps, with v and u as arrows along them"
style = {"width": 0.005, "angles": "xy", "scale_units": "xy", "scale": 1, "zorder": 3}
with plot.figure(alt=alt, height=3.9) as fig:
    axes = fig.subplots()
    angle = torch.linspace(0, torch.pi / 2, 60)
    axes.plot(angle.cos(), angle.sin(), color=plot.COLOUR["v"])
    axes.plot([1, 0], [0, 1], color=plot.COLOUR["u"])
    for name, (tail, along, where) in arrows.items():
        axes.quiver(*tail, *along, color=plot.COLOUR[name], **style)
        axes.text(*where, name, color=plot.ink(plot.COLOUR[name]), weight="bold", size=12)
    axes.text(0.85, 0.58, "diffusion: $x_t = \\sqrt{ᾱ}\\,x_0 + \\sqrt{1-ᾱ}\\,ε$")
    axes.text(0.56, 0.36, "flow: $z_t = (1-t)\\,x_0 + t\\,ε$", ha="right", va="top")
    axes.set(xlim=(-0.25, 1.9), ylim=(-0.08, 1.1), aspect="equal")
    axes.set_axis_off()

# %% [markdown] exercise_card="noise.x0_from_eps"
# ### Exercise 1.2 · How do you translate? `x0_from_eps`
#
# Before a step, the network's answer must be turned into the picture it implies. Here is the dictionary's first entry: the equation of 1.1, solved for
# $x_0$.
#
# $$ \hat x_0 = \frac{x_t - \sqrt{1-\bar\alpha_t}\;\hat\epsilon}{\sqrt{\bar\alpha_t}} $$
#
# `x_t` and `eps` are `(B, …)`, `alpha_bar` is `(B,)`. Returns `(B, …)`.
#
# One meaning is not one difficulty. Below the check a network errs by 0.1 in every number, whichever dialect it speaks. How wrong is the picture?

# %% exercise="noise.x0_from_eps"
from lesson_lib.noise import x0_from_eps

# %% name="check-x0_from_eps"
x0_from_eps = check("noise.x0_from_eps", x0_from_eps)

# %% [markdown] hints="noise.x0_from_eps"
# idea: Take away the noise that is in there, then undo the shrinking.
# pseudo-code: a with trailing axes; (x_t minus root(1 - a) times eps), the whole divided by root(a).
# most common error: Missing brackets, so that only the noise is divided.

# %% name="which-error"
levels = schedules["linear"].alpha_bar[::25].float()
x0, eps = moons[:500].cpu(), moons_noise[:500].cpu()
error = {"eps": [], "v": []}
for level in levels.split(1):
    level = level.expand(500)
    x_t = add_noise(x0, eps, level)
    error["eps"].append((x0_from_eps(x_t, eps + 0.1, level) - x0).abs().mean())
    error["v"].append((x0_from_v(x_t, v_target(x0, eps, level) + 0.1, level) - x0).abs().mean())
error["x0"] = [0.1] * len(levels)
labels = {"xlabel": "step t", "ylabel": "error of the picture"}
alt = "An error of 0.1 in eps grows a hundredfold towards the last step; in v it stays below 0.1"
plot.lines(torch.arange(0, 1000, 25), error, **labels, logy=True, alt=alt)

# %% [markdown]
# Near pure noise the division by $\sqrt{\bar\alpha}$ magnifies every error of a noise predictor; near the data it forgives nearly all. A `v` predictor
# is safe at both ends. The network's answer is also a compass: $-\hat\epsilon/\sqrt{1-\bar\alpha}$ is the **score**, the direction in which $x_t$
# becomes more probable. Train a network and look at it. At much noise all arrows should point to the middle, since nothing is known but the mean; at
# little noise, each to its nearest moon. That is why the picture at the top begins as a blur: coarse things are decided early, fine ones late.

# %% name="train-toy-eps"
toy = Diffusion.linear()


def noise_loss(model, batch, generator):
    (x0,) = batch
    t = toy.sample_times(len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    x_t = add_noise(x0, eps, toy.alpha_bar_at(t).float())
    return (model(x_t, toy.model_time(t)) - eps).square().mean()


def train_toy(loss):
    torch.manual_seed(0)
    network = PointDenoiser().to(budget.device)
    steps = budget.choose(smoke=60, laptop=1500, gpu=4000)
    return network, fit(network, (moons,), loss, steps=steps, batch_size=256, lr=2e-3, ema=0.99, progress=False)


eps_net, eps_record = train_toy(noise_loss)
print(f"{eps_record.steps} steps, {eps_record.seconds:.1f} s, loss {sum(eps_record.losses[-50:]) / 50:.3f}")


def toy_score(x, t):
    level = toy.alpha_bar_at(t.long().cpu()).float()
    score = score_from_eps(eps_net(x.to(budget.device), t.to(budget.device)).cpu(), level)
    return score * (1 - level).sqrt()[:, None]  # so that the arrows of all panels are of one order


alt = "Score: towards the middle at t = 600, towards two moons at t = 40"
plot.flow_field(toy_score, (600, 200, 40), extent=2.3, alt=alt)

# %% [markdown] exercise_card="noise.posterior"
# ### Exercise 1.3 · How far may one step go? `posterior`
#
# You know $x_t$. If you also knew $x_0$, where would $x_{t-1}$ be? Two witnesses speak. One knows $x_0$ and that noise of share
# $1-\bar\alpha_{t-1}$ is on it. The other knows $x_t$, and that one step of noise $\beta$ lies between. Both are Gaussian, and so is what they say
# together, the **posterior**:
#
# $$ \tilde\mu = \frac{\sqrt{\bar\alpha_{t-1}}\;\beta}{1-\bar\alpha_t}\,x_0 + \frac{\sqrt{\alpha}\,(1-\bar\alpha_{t-1})}{1-\bar\alpha_t}\,x_t,
# \qquad \tilde\beta = \beta\,\frac{1-\bar\alpha_{t-1}}{1-\bar\alpha_t},\qquad \alpha = \frac{\bar\alpha_t}{\bar\alpha_{t-1}},\quad \beta = 1-\alpha $$
#
# Return the mean $\tilde\mu$, `(B, …)`, and the variance $\tilde\beta$, `(B, 1, …, 1)`. Take $\alpha$ and $\beta$ from the two ᾱs, not from a table:
# then the same function serves samplers that skip steps.

# %% exercise="noise.posterior"
from lesson_lib.noise import posterior

# %% name="check-posterior"
posterior = check("noise.posterior", posterior)

# %% [markdown] hints="noise.posterior"
# idea: Four numbers for each picture (ᾱ, ᾱ_prev, α, β), then a weighted mean of two tensors.
# pseudo-code: Expand both ᾱs; alpha = ᾱ / ᾱ_prev; beta = 1 - alpha; mean = (root(ᾱ_prev) beta x0 + root(alpha) (1 - ᾱ_prev) x_t) / (1 - ᾱ); variance as above.
# most common error: Using ᾱ where α is meant. ᾱ counts all the steps since the data, α this one.

# %% name="posterior-figure"
known = {"x0": 0.9, "x_t": -0.4, "now": 0.35, "before": 0.6}
one = {name: torch.tensor([[value]]) for name, value in known.items()}
mean, variance = posterior(one["x0"], one["x_t"], one["now"][0], one["before"][0])
x = torch.linspace(-2.5, 2.5, 300)


def bell(mean, variance):
    return torch.exp(-((x - float(mean)) ** 2) / (2 * float(variance))) / (2 * torch.pi * float(variance)) ** 0.5


alpha = known["now"] / known["before"]
witnesses = {
    "knows x0": bell(known["before"] ** 0.5 * known["x0"], 1 - known["before"]),
    "knows x_t": bell(known["x_t"] / alpha**0.5, (1 - alpha) / alpha),
    "both: yours": bell(mean, variance),
}
alt = "Two Gaussians, and the posterior between them"
plot.lines(x, witnesses, xlabel="x before the step", ylabel="density", alt=alt)
steps = torch.tensor([1, 10, 100, 900])
now, before = toy.alpha_bar_at(steps), toy.alpha_bar_at(steps - 1)
_, variance = posterior(torch.zeros(4, 2), torch.zeros(4, 2), now.float(), before.float())
for t, ratio in zip(steps.tolist(), (variance.flatten() / (1 - now / before)).tolist(), strict=True):
    print(f"step {t:>3}: posterior variance = {ratio:.3f} β")

# %% [markdown]
# The third curve lies between the others and is narrower than both. A sampler does not know $x_0$, so it puts the network's guess in its place, and
# the honest variance lies somewhere between $\tilde\beta$ ("small") and $\beta$ ("large"). The printed ratios say that the choice hardly matters,
# except in the first few steps from the data. Improved DDPM, ADM and DiT let the network decide: a second half of output channels $v$ interpolates
# between the two **logarithms**, $\log\sigma^2 = f\log\beta + (1-f)\log\tilde\beta$ with $f=(v+1)/2$.
#
# Drawing from the posterior, a thousand times, is DDPM. Must the noise be fresh each time? No. **DDIM** puts the *predicted* noise back and adds as
# much fresh noise as you like:
#
# $$ x' = \sqrt{\bar\alpha'}\,\hat x_0 + \sqrt{1-\bar\alpha'-\sigma^2}\;\hat\epsilon + \sigma\,n,
# \qquad \sigma = \eta\sqrt{\frac{1-\bar\alpha'}{1-\bar\alpha}}\sqrt{1-\frac{\bar\alpha}{\bar\alpha'}} $$

# %% [markdown] exercise_card="samplers.ddim_step"
# ### Exercise 1.4 · `ddim_step`
#
# $\bar\alpha$ is `alpha_bar`, where you are; $\bar\alpha'$ is `alpha_bar_prev`, where you go; $n$ is `noise`. With `eta = 0` the step is
# deterministic. Rounding can push $1-\bar\alpha'-\sigma^2$ a hair below zero: clamp before the root.
#
# The loop around it follows below: it holds your `x0_from_eps`, your `posterior` and your `ddim_step`. Four walkers leave from **one** point.

# %% exercise="samplers.ddim_step"
from lesson_lib.samplers import ddim_step

# %% name="check-ddim_step"
ddim_step = check("samplers.ddim_step", ddim_step)

# %% [markdown] hints="samplers.ddim_step"
# idea: It is add_noise again, at a lower level, with predictions in place of the truth; part of the noise is exchanged for fresh noise of the same variance.
# pseudo-code: Expand both; sigma from the formula; root(ᾱ') x0 + root(clamp(1 - ᾱ' - sigma²)) eps + sigma noise.
# most common error: Ending at the level you came from, ᾱ instead of ᾱ'. The picture then never gets cleaner.


# %% name="sample_diffusion"
@torch.no_grad()
def sample_diffusion(model, x, process, steps, eta=None, generator=None):
    """Walk from noise x to data; eta=None is DDPM, a number is DDIM. Returns (steps + 1, B, ...)."""
    path, stops = [x], process.grid(steps)
    for t, t_prev in zip(stops, [*stops[1:], torch.tensor(-1)], strict=True):
        now, before = (process.alpha_bar_at(s[None]).float().to(x.device).expand(len(x)) for s in (t, t_prev))
        eps = model(x, process.model_time(t).to(x.device).expand(len(x)))
        x0 = x0_from_eps(x, eps, now)
        fresh = torch.randn(x.shape, generator=generator, device=x.device)
        if eta is None:
            mean, variance = posterior(x0, x, now, before)
            x = mean + variance.sqrt() * fresh
        else:
            x = ddim_step(x0, eps, now, before, fresh, eta)
        path.append(x)
    return torch.stack(path)


one_place = torch.tensor([[1.4, 1.8]], device=budget.device).expand(4, 2)
alt = "Four DDPM walks from one point scatter; four DDIM walks are one and the same line"
with plot.figure(alt=alt, height=4.0) as fig:
    for axes, (name, eta) in zip(fig.subplots(1, 2), {"ddpm": None, "ddim": 0.0}.items(), strict=True):
        walk = sample_diffusion(eps_net, one_place, toy, 50, eta, budget.generator(7)).cpu()
        axes.scatter(*moons[:800].T.cpu(), s=3, color="#CCCCCC")
        axes.plot(walk[..., 0], walk[..., 1], color=plot.COLOUR[name], linewidth=1.1, alpha=0.8)
        axes.scatter(*walk[-1].T, s=30, color=plot.ink(plot.COLOUR[name]), zorder=3)
        axes.set(title=f"{name}: 4 walks from one point", xlim=(-3, 3), ylim=(-3, 3), aspect="equal")

# %% [markdown]
# DDPM rolls dice all the way: four walks, four ends. DDIM rolls them once, before it sets off: one start, one end, one smooth line. And a smooth line
# can be walked in large strides; that answers how far a step may go. It depends on how straight the way is.
#
# ## Can the way be made straight?
#
# Then draw it straight. A **rectified flow** mixes along the chord, $z_t=(1-t)\,x_0+t\,\epsilon$; the library calls that `interpolate`. Mind the
# direction of time. Both are in use, and "high noise = low t" is true in one row of this table only:
#
# | code | large $t$ is | regression target | the network is fed |
# |---|---|---|---|
# | DDPM, ADM, DiT, latent diffusion | noise | $\epsilon$ | $t$, 0 … 999 |
# | SD3, FLUX, diffusers' flow matching; this course | noise | $\epsilon - x_0$ | $1000\,t$ |
# | Lipman et al., facebookresearch/flow_matching | **data** | data − noise | $t$ |
#
# To move between the families, replace $t$ by $1-t$ **and** flip the sign.

# %% [markdown] exercise_card="flow.velocity_target"
# ### Exercise 1.5 · `velocity_target`
#
# A traveller goes along $z_t$ from data to noise in one unit of time. What is the velocity $u = \mathrm{d}z_t/\mathrm{d}t$? This is what the network
# learns. `x0` and `noise` are `(B, …)`; returns `(B, …)`.
#
# Below the check: 25 pairs, each a straight line. Then a network learns from such pairs at random times.

# %% exercise="flow.velocity_target"
from lesson_lib.flow import velocity_target

# %% name="check-velocity_target"
velocity_target = check("flow.velocity_target", velocity_target)

# %% [markdown] hints="flow.velocity_target"
# idea: On a straight line the velocity is the same everywhere: end minus beginning, for one unit of time.
# pseudo-code: the derivative of (1 - t) x0 is -x0; of t noise it is noise; add.
# most common error: The other sign. It is right in code where t = 1 is data.

# %% name="train-toy-flow"
line_times = torch.linspace(1, 0, 20)
lines = torch.stack([interpolate(moons[:25], moons_noise[:25], t.expand(25).to(moons)) for t in line_times])
plot.paths(lines, title="25 training pairs", alt="Straight lines between noise and moons; many of them cross")
straight = RectifiedFlow()


def flow_loss(model, batch, generator):
    (x0,) = batch
    t = straight.sample_times(len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    return (model(interpolate(x0, eps, t), straight.model_time(t)) - velocity_target(x0, eps)).square().mean()


flow_net, flow_record = train_toy(flow_loss)
print(f"{flow_record.steps} steps, {flow_record.seconds:.1f} s, loss {sum(flow_record.losses[-50:]) / 50:.2f}")

# %% [markdown]
# The loss stays far from zero, and it must. Where two lines cross, two velocities are right at one point, and a network can give only one answer: their
# **mean**. What it learns is a traffic flow, not the trip of any one car.
#
# ## How do you follow arrows?
#
# Take a stride along the arrow where you stand. That is Euler:

# %% source="samplers.euler_step"
from lesson_lib.samplers import euler_step

# %% [markdown] exercise_card="samplers.heun_step"
# ### Exercise 1.6 · Does it pay to look ahead? `heun_step`
#
# Where the flow bends, a stride along the first arrow leaves the road. Heun looks ahead: try the Euler stride, ask for the arrow *there*, and walk the
# stride again along the mean of the two.
#
# `velocity` is a function of `(z, t)`. Call it twice: at `(z, t)`, and at the end of the trial stride at `t_next`. Start the final stride from `z`.
# You may use `euler_step`. Two calls a stride: the figure below the check shows whether the second one pays.

# %% exercise="samplers.heun_step"
from lesson_lib.samplers import heun_step

# %% name="check-heun_step"
heun_step = check("samplers.heun_step", heun_step)

# %% [markdown] hints="samplers.heun_step"
# idea: A trial stride, then a better-informed one from the same place.
# pseudo-code: here = velocity(z, t); there = velocity(euler_step(z, here, t, t_next), t_next); euler_step(z, mean of here and there, t, t_next).
# most common error: Asking for the second velocity at t. The trial point belongs to t_next.


# %% name="sample_flow"
@torch.no_grad()
def sample_flow(model, z, process, steps, heun=False):
    """Walk from noise z to data; the last stride, to time 0, is always Euler's. Returns (steps + 1, B, ...)."""

    def velocity(z, t):
        return model(z, process.model_time(t))

    path, grid = [z], process.grid(steps).float().to(z.device)
    for t, t_next in zip(grid[:-1, None].expand(-1, len(z)), grid[1:, None].expand(-1, len(z)), strict=True):
        look_ahead = heun and float(t_next[0]) > 0
        z = heun_step(velocity, z, t, t_next) if look_ahead else euler_step(z, velocity(z, t), t, t_next)
        path.append(z)
    return torch.stack(path)


seeds = [torch.Generator().manual_seed(seed) for seed in range(5)]
start = torch.cat([torch.randn(100, 2, generator=seed) for seed in seeds]).to(budget.device)
road = sample_flow(flow_net, start, straight, 200, heun=True)
calls = [3, 5, 9, 17, 33, 65]


def distance(ends):
    return (ends - road[-1]).norm(dim=1).view(5, 100).mean(1)


off = {
    "euler": [distance(sample_flow(flow_net, start, straight, n)[-1]) for n in calls],
    "heun": [distance(sample_flow(flow_net, start, straight, (n + 1) // 2, heun=True)[-1]) for n in calls],
}
off = {name: torch.stack(values, dim=1) for name, values in off.items()}
labels = {"xlabel": "network calls", "ylabel": "distance to the end of the road"}
alt = "Distance to where 200 Heun strides end, for Euler and Heun at equal numbers of calls, five seeds of noise"
plot.curves(calls, off, **labels, logx=True, logy=True, alt=alt)

# %% [markdown]
# The end of the road is where 200 small Heun strides arrive. At equal calls Heun takes half as many strides, and each is better informed. Which line
# lies lower, and from where on?
#
# Now the claim that you will read often: *flow matching trains straight paths, so it needs one step*. Look at the road.


# %% name="one-step"
def network_arrows(x, t):
    return flow_net(x.to(budget.device), straight.model_time(t).to(budget.device)).cpu()


alt = "The learned velocity at three times, with bent paths"
plot.flow_field(network_arrows, (0.9, 0.5, 0.1), path=road[::4], cells=13, alt=alt)
few = {f"{n} call{'s' * (n > 1)}": sample_flow(flow_net, start, straight, n)[-1] for n in (1, 2, 8, 64)}
plot.points(few, alt="Samples after one call form a blob in the middle; after 64 calls they are two moons", extent=2.6)
walked = (road[1:] - road[:-1]).norm(dim=2).sum(0)
detour = float((walked / (road[-1] - road[0]).norm(dim=1)).median())
shrunk = float((few["1 call"].std(0) / moons.std(0)).mean())
landed = "near the mean of the data" if shrunk < 0.5 else "anywhere"
print(f"the learned road is {detour:.2f} times as long as the straight line (median of 500)")
print(f"after one call the samples spread {shrunk:.0%} as wide as the data")

# %% [markdown]
# (Arrows point towards noise; you walk against them.) Every training line is straight; the field learned from them is bent, as the first number says.
# One call lands on a blob, because at $t=1$ the best guess of $\epsilon-x_0$ is $\epsilon$ minus the *mean* of the data. Straight training lines do
# not make a one-step generator.
#
# ## Which times should it practise?
#
# Time is yours to choose in training. At $t=1$ the best answer is known before training, and at $t=0$ nearly so. In between there is something to learn.
# SD3 draws a normal number and sends it through a sigmoid, so that the middle comes up more often.

# %% [markdown] exercise_card="flow.logit_normal_times"
# ### Exercise 1.7 · `logit_normal_times`
#
# Draw `count` normal numbers with this `mean` and `std` **from the generator**, and map them into (0, 1) with the sigmoid. Returns `(count,)`.

# %% exercise="flow.logit_normal_times"
from lesson_lib.flow import logit_normal_times

# %% name="check-logit_normal_times"
logit_normal_times = check("flow.logit_normal_times", logit_normal_times)

# %% [markdown] hints="flow.logit_normal_times"
# idea: The name reads backwards: the *logit* of t is normal, so t is the sigmoid of a normal number.
# pseudo-code: n = randn(count, from the generator, on its device); sigmoid(mean + std n).
# most common error: Scaling after the sigmoid, which leaves the interval.

# %% name="times-figure"
g = torch.Generator().manual_seed(9)
drawn = {"uniform": torch.rand(40_000, generator=g), "logit-normal": logit_normal_times(40_000, g)}
drawn["logit-normal, shift 3"] = shift_times(drawn["logit-normal"], 3.0)
plot.histogram(drawn, xlabel="training time t (1 is noise)", alt="Uniform, logit-normal and shifted logit-normal times")
tenths = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
for a, b in zip(tenths.tolist(), shift_times(tenths, 3.0).tolist(), strict=True):
    print(f"shift 3: {a:g} → {b:.3f}")

# %% [markdown]
# Does it help? In SD3's comparison of 61 recipes over 24 settings (Table 1, average rank, lower is better) logit-normal (0, 1) has rank 1.54, and
# uniform times 5.67. The old noise prediction with latent diffusion's linear schedule has 2.88: **a rectified flow with uniform times ranks below the
# recipe it replaces.** The gain is the flow *and* the times.
#
# The third outline is a **shift**, $t \mapsto \alpha t/(1+(\alpha-1)t)$. In a large picture neighbours repeat each other, so the same noise hides less;
# SD3 uses $\alpha=3$ at 1024², FLUX lets α grow with the number of tokens. The answer: practise where the answer is not known beforehand.
#
# ## Do the parts fit together?
#
# Your parts against the library's samplers, then the library's against diffusers' schedulers, on one fake model with the same noise and steps.
# Differences of about $10^{-6}$ are rounding. Last, the price of a picture: calls × the cost of a call.

# %% name="parity"
ours = {
    "ddpm": sample_diffusion(eps_net, start[:50], toy, 20, None, budget.generator(1))[-1],
    "ddim": sample_diffusion(eps_net, start[:50], toy, 20, 0.0)[-1],
    "euler": sample_flow(flow_net, start[:50], straight, 20)[-1],
    "heun": sample_flow(flow_net, start[:50], straight, 20, heun=True)[-1],
}
for name, mine in ours.items():
    net, world = (eps_net, toy) if name in ("ddpm", "ddim") else (flow_net, straight)
    theirs = samplers.SAMPLERS[name](net, start[:50], 20, world, generator=budget.generator(1))
    print(f"{name:<6} yours against the library: {float((mine - theirs).abs().max()):.1e}")
print(parity("samplers"))

for name in ("shapes-flow", "digits-flow", "digits-eps"):
    net, picture = load_shipped(name)[0], torch.zeros(1, *DATA_SETS[RECIPES[name].data].shape)
    macs = count_macs(net, picture, torch.zeros(1), torch.zeros(1, dtype=torch.long))
    weights = sum(p.numel() for p in net.parameters())
    cost = f"{macs / 1e6:.0f} M MACs a call, {31 * macs / 1e9:.2f} G for 31 calls"
    print(f"{name:<12} {weights / 1e6:.2f} M weights · {cost}")
print("DDPM, CIFAR-10 (App. B): 35.7 M weights, 1,000 calls · DiT (§4): 250 calls")
print(f"DiT-XL/2 (§4): 5.7 steps/s on a TPU v3-256; 400,000 steps are {400_000 / 5.7 / 3600:.1f} h (our division)")

# %% [markdown]
# ## What does a minute of training buy?
#
# Real digits, 8 × 8 pixels: a short run here beside the shipped network of the same build, trained for longer. Same start, same classes. A
# classifier fitted on real digits reads both.

# %% name="train-digits"
torch.manual_seed(0)
times = RectifiedFlow(time="logit-normal")
live = ConvDenoiser(1, width=48, depth=4, num_classes=10).to(budget.device)
data = (real.images.to(budget.device), real.labels.to(budget.device))
loss, steps = denoising_loss(times, label_dropout=0.1), budget.choose(smoke=10, laptop=400, gpu=2000)
record = fit(live, data, loss, steps=steps, lr=2e-3, warmup=30, ema=0.99, progress=False)
print(f"{record.steps} steps · {record.seconds:.0f} s · peak {record.peak_memory_mb:,.0f} MB")
plot.losses(record, alt="Loss of the short run on digits: a steep fall, then a slow one")

wanted = (torch.arange(budget.choose(smoke=20, laptop=200)) % 10).to(budget.device)
start = torch.randn(len(wanted), 1, 8, 8, generator=budget.generator(10), device=budget.device)
shipped, _ = load_shipped("digits-flow", budget.device)
made = {f"live, {steps} steps": live, f"shipped, {RECIPES['digits-flow'].steps} steps": shipped}
made = {name: samplers.heun(lambda x, t, net=net: net(x, t, wanted), start, 16, times) for name, net in made.items()}
alt = "Ten digits by the live and by the shipped network, from the same noise"
plot.sample_rows({name: ten[:10] for name, ten in made.items()}, column_titles=list("0123456789"), alt=alt)
for name, pictures in made.items():
    right = round(class_accuracy(pictures, wanted) * len(wanted))
    share, low, high = results.proportion_interval(right, len(wanted))
    print(f"{name}: {share:.0%} read as the digit that was asked for (95 % interval {low:.0%} to {high:.0%})")

# %% [markdown]
# ## Which sampler, which times?
#
# Back to the plot at the top, now with its numbers. DDPM and DDIM share one network, Euler and Heun another, so two comparisons are fair: within each
# pair, on the same seed. Decide before you read: at 9 calls, is fresh noise a help or a burden? A second record trains the same flow with uniform and
# with logit-normal times, for equally many steps. Your two guesses come last.

# %% name="ablation"
few_calls = {name: ablation.values(name, "fd_judge", 9.0) for name in ablation.variants}
alt = "FD-judge of four samplers at nine calls, with intervals"
plot.intervals(few_calls, xlabel="FD-judge at 9 calls", better="lower", alt=alt)
for calls in (5.0, 9.0, 65.0):
    for pair in (("ddpm", "ddim"), ("euler", "heun")):
        print(results.verdict(ablation, "fd_judge", at=calls, variants=pair))

# %% name="ablation-times"
times_record = results.load("time_sampling")
by_steps = {name: times_record.values(name, "fd_judge", 8.0) for name in times_record.variants}
alt = "FD-judge of uniform and logit-normal times"
plot.intervals(by_steps, xlabel="FD-judge at 8 Euler steps", better="lower", alt=alt)
for count in times_record.x["values"]:
    print(results.verdict(times_record, "fd_judge", at=count))
revisit("noise.q1")
revisit("flow.q1", landed)

# %% [markdown]
# The sentences are worded by the intervals, not by us: where one says that no difference is established, the seeds disagree too much for this size.
# And the size is small: drawings of shapes, a network of a few hundred thousand weights, a distance by our own judge. An order that holds in SD3's
# table need not hold here.
#
# ## Break it
#
# Three students each have one wrong line. All code runs; no error appears. Read what they wrote, then look at the curves and samples.


# %% name="break-it"
def loss_1(model, batch, generator):
    (x0,) = batch
    t = straight.sample_times(len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    return (model(interpolate(x0, eps, t), t) - velocity_target(x0, eps)).square().mean()


def loss_2(model, batch, generator):
    (x0,) = batch
    t = toy.sample_times(len(x0), generator)
    eps = torch.randn(x0.shape, generator=generator, device=x0.device)
    x_t = add_noise(eps, x0, toy.alpha_bar_at(t).float())
    return (model(x_t, toy.model_time(t)) - eps).square().mean()


@torch.no_grad()
def sample_3(model, z):
    for t in torch.arange(32, device=z.device) / 32:
        z = z - model(z, straight.model_time(t.expand(len(z)))) / 32
    return z


start = torch.randn(1500, 2, generator=budget.generator(11), device=budget.device)
net_1, record_1 = train_toy(loss_1)
net_2, record_2 = train_toy(loss_2)
sound = {"sound flow, and 3": flow_record, "sound noise predictor": eps_record}
alt = "Loss curves: students 1 and 3 look like the sound flow; student 2 lies above the sound noise predictor"
plot.losses({**sound, "student 1": record_1, "student 2": record_2}, alt=alt)
broken = {
    "sound flow": sample_flow(flow_net, start, straight, 32)[-1],
    "student 1": sample_flow(net_1, start, straight, 32)[-1],
    "student 2": sample_diffusion(net_2, start, toy, 50, 0.0)[-1],
    "student 3": sample_3(flow_net, start),
}
plot.points(broken, alt="Samples of a sound flow and of three broken programs", extent=3.2)

# %% [markdown]
# For each: is the loss suspicious, or only the samples? Which line is it? Then open the folds.
#
# <details><summary>Student 1</summary>
#
# `model(interpolate(x0, eps, t), t)`: trained on times from 0 to 1, sampled with times from 0 to 1000. The loss cannot show it, since training is
# consistent with itself. The fault is `t` in place of `straight.model_time(t)`.
#
# </details>
#
# <details><summary>Student 2</summary>
#
# `add_noise(eps, x0, …)`: the arguments are swapped, so at late times the network looks at clean data and is asked for noise that it cannot see. Here
# the loss does tell: it is far above the sound predictor's.
#
# </details>
#
# <details><summary>Student 3</summary>
#
# `for t in torch.arange(32) / 32`: the walk goes from 0 to 1, so the network is told "clean" while it looks at noise. The training is sound; this is
# the sound flow's own network. Times must fall: 1, 31/32, …
#
# </details>
#
# A loss curve vouches for the training alone. If it looks right and the samples do not, read the sampler, and what it feeds the network.
#
# ## Where is this in the real code?
#
# | repository: file | what you will recognise | what differs |
# |---|---|---|
# | hojonathanho/diffusion: `scripts/run_cifar.py` | linear β from 1e-4 to 0.02, 1,000 steps, ε | TensorFlow |
# | openai/guided-diffusion: `guided_diffusion/gaussian_diffusion.py` | the posterior, `ddim_sample` | ε is recomputed from the clipped $\hat x_0$; variance can be learned |
# | facebookresearch/DiT: `diffusion/gaussian_diffusion.py`, `sample.py` | the same file's descendant | latents: clipping is off |
# | CompVis/latent-diffusion: `ldm/modules/diffusionmodules/util.py` | the *other* linear | – |
# | Stability-AI/sd3-ref: `sd3_impls.py`, `sd3_infer.py` | $\sigma$ is our $t$; 50 Euler steps | shift 3; the step is written $(x-\hat x_0)/\sigma$, which is $u$ |
# | black-forest-labs/flux: `src/flux/sampling.py` | $x + (t_{next} - t)\,u$: your Euler step | shift grows with the number of tokens |
#
# Two claims to be careful with. "SD3 replaced DiT by single-step training": its backbone descends from DiT, its training regresses one velocity at one
# time, and its sampler takes dozens of steps. "Flow matching predicts the path in one step": you measured it.
#
# ## What do you take along?
#
# - Any noise level is one line away, and $\bar\alpha$, not the step number, says how much is left.
# - ε, $x_0$, $v$ and $u$ say the same; they differ in where errors hurt.
# - A sampler translates, steps, and repeats. DDPM rolls dice at each step, DDIM never again, Euler and Heun follow arrows.
# - Straight training lines, bent roads: the network learns a mean.
#
# From now on you can import what you wrote: `lesson_lib.noise`, `lesson_lib.flow` and `lesson_lib.samplers`. Lesson 2 asks how a network hears the
# time and the class.
#
# - Ho, Jain, Abbeel, *Denoising Diffusion Probabilistic Models* (arXiv 2006.11239): the posterior of 1.3 and the loss.
# - Song, Meng, Ermon, *Denoising Diffusion Implicit Models* (arXiv 2010.02502): why the noise need not be fresh.
# - Esser et al., *Scaling Rectified Flow Transformers* (SD3, arXiv 2403.03206): §2–3 and Table 1, the comparison of 61 recipes.
#
# Last, one answer in your own words.

# %% name="words-and-score"
prose("flow.w1", """""")
score("01")
