# %% [markdown]
# # 11. Full size
#
# **Aim:** Open DiT-XL/2, the paper's largest model, from the hub or from a file: know before what it takes, sample from
# it, look inside, save its run and open that in the app. Without the file, do the same steps on a model that is here.
#
# **Before:** sampling (notebook 6), latents (notebook 7), looking inside (notebook 10).
#
# **Time:** about a minute of computing on a CPU, on the small model, and half an hour of reading. The full-size one
# adds a download of 3.3 GB, and what section 2 estimates for your machine.
#
# There are no exercises here: predictions only.
#
# The papers:
#
# * DiT: Peebles & Xie 2022, *Scalable Diffusion Models with Transformers*, [arXiv
#   2212.09748](https://arxiv.org/abs/2212.09748)
# * the autoencoder: Rombach et al. 2021, *High-Resolution Image Synthesis with Latent Diffusion Models*, [arXiv
#   2112.10752](https://arxiv.org/abs/2112.10752)

# %%
import os
import time
from pathlib import Path

import torch
from IPython.display import display
from matplotlib.figure import Figure

import dit_lab
from dit_lab.checkpoints import diffusers_dit, meta_dit
from dit_lab.course import predict, reveal
from dit_lab.data import codec_of
from dit_lab.inside import Trajectory, attention_numbers
from dit_lab.inside.plots import BLUE, ORANGE, picture_table
from dit_lab.models import count, pick_device
from dit_lab.models import fast as make_fast
from dit_lab.panels import Opened
from dit_lab.widgets import show

# %% [markdown]
# Everything that you may want to change is in the next cell. As it is, **nothing is downloaded**. With `download =
# True` the checkpoint `facebook/DiT-XL-2-256` and its autoencoder are fetched from the Hugging Face hub, once: 3.3 GB.
# If you have the original's file, name it in `local`; then only what is on this disk is used.

# %% tags=["parameters"]
fast = os.environ.get("FAST") == "1"  # for the tests: a little of everything
device = pick_device("auto")  # the first of CUDA, an Apple GPU and the CPU
download = False  # True: DiT-XL/2 and its autoencoder are fetched from the hub, 3.3 GB
local = ""  # or a file or folder that you have, such as "DiT-XL-2-256x256.pt"
vae = None  # or the folder of the file's autoencoder, where you have it; without it, colours are approximate
full = download or bool(local)
source = local or ("facebook/DiT-XL-2-256" if download else "cifar10")  # cifar10 ships with the package
label = 207 if full else 8  # of ImageNet's 1,000 classes a golden retriever; of CIFAR-10's ten a ship
steps = 4 if fast else 20  # of DDIM
cfg_scale = 4.0 if full else 2.0  # the guidance of the original's sampling script is 4
precision = "auto" if full else "fp32"  # auto: in half precision, where this machine is faster in it
seed = 6  # of the noise; one whose pictures can be read
out = "runs/looked_into.safetensors"  # where the run will lie

# %%
if not download:
    os.environ["HF_HUB_OFFLINE"] = "1"  # from here on nobody asks the hub, whatever a file names
print(f"source: {source}; the hub may be asked: {'yes' if download else 'no'}")

# %% [markdown]
# ## 1. What will come, before it comes
#
# `count` builds a model without memory for its weights and counts: parameters, and multiply-accumulates (MACs) for one
# picture. (The paper's "Gflops" are these MACs: 118.64 for XL/2, table 4.) Beside DiT-XL/2 stands `cifar10` of the zoo,
# the same kind of model, small: a latent DiT with adaLN-Zero blocks and its own autoencoder.

# %%
small = dit_lab.load("cifar10").config
with torch.device("meta"):  # shapes alone
    giant = dit_lab.build("DiT-XL/2")
costs = {"DiT-XL/2": (giant.config, count(giant)), "cifar10": (small, count(small))}
print(f"{'':10} blocks  heads  width  tokens  classes   parameters       GMACs")
for name, (config, cost) in costs.items():
    tokens = config.grid[0] * config.grid[1]
    told = f"{config.depth:6} {config.heads:6} {config.dim:6} {tokens:7} {config.num_classes:8}"
    print(f"{name:10} {told}  {cost.params:11,}  {cost.macs / 1e9:10.3f}")
ratio = costs["DiT-XL/2"][1].macs / costs["cifar10"][1].macs
print(f"one forward of DiT-XL/2 is {ratio:,.0f} of the small model's")

# %% [markdown]
# The hub's checkpoint is in the format of diffusers, a library: the transformer and the autoencoder, every number in
# fp32, 4 bytes. 675 million numbers are 2.7 GB, and the autoencoder, counted below, is 0.3 GB. That makes 3.0. But what
# comes is 3.3 GB.
#
# **Guess first.** What are the other 0.3 GB?

# %% tags=["stub"]
predict("11.1 what the other 0.3 GB are", ...)

# %% tags=["guess"]
predict("11.1 what the other 0.3 GB are", "the optimiser's averages")

# %%
from diffusers import AutoencoderKL  # noqa: E402  here, since it takes seconds

with torch.device("meta"):
    autoencoder = AutoencoderKL(  # the shapes of Stable Diffusion's
        block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4,
        down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
    )  # fmt: skip
gigabytes = lambda tensors: 4 * sum(tensor.numel() for tensor in tensors) / 1e9
weights = giant.state_dict()
sizes = {
    "the original's file, DiT-XL-2-256x256.pt": gigabytes(meta_dit.to_theirs(weights, giant.config).values()),
    "the transformer, as diffusers keeps it": gigabytes(diffusers_dit.to_theirs(weights, giant.config).values()),
    "the autoencoder": gigabytes(autoencoder.parameters()),
}
names = list(sizes)
whole = sizes[names[1]] + sizes[names[2]]


def files():
    """What each file takes, and what diffusers' holds more than once."""
    for name, size in sizes.items():
        print(f"{size:4.1f} GB  {name}")
    theirs = diffusers_dit.to_theirs(weights, giant.config)
    embedders = [tensor for name, tensor in theirs.items() if name.startswith("transformer_blocks.0.norm1.emb.")]
    times = giant.config.depth - 1
    return (
        f"the embedders of timestep and label, {gigabytes(embedders) * 1e3:.0f} MB, "
        f"{times} times more than needed: {times * gigabytes(embedders):.1f} GB"
    )


reveal("11.1 what the other 0.3 GB are", files)

# %% [markdown] tags=["after"]
# Copies. In diffusers' format each of the 28 blocks keeps embedders of timestep and label of its own, all 28 the same.
# The original's file has them once. `load` takes both, and keeps one copy.

# %% [markdown]
# And the picture? A photograph of 256 x 256 pixels has three numbers a pixel. DiT denoises the autoencoder's latent, 8
# times smaller each way, with four channels.
#
# **Guess first.** How many per cent of the picture's numbers does the model denoise?

# %% tags=["stub"]
predict("11.2 per cent of the picture's numbers that are denoised", ...)

# %% tags=["guess"]
predict("11.2 per cent of the picture's numbers that are denoised", 12)

# %%
share = 4 * 32 * 32 / (3 * 256 * 256)
reveal("11.2 per cent of the picture's numbers that are denoised", f"{share:.0%}")

# %% [markdown] tags=["after"]
# Two. With patches of 2 x 2 these 4,096 numbers are 256 tokens. Of pixels there would be 16,384 such tokens, and
# attention's maps 4,096 times larger. The small model's latent is 8 x 8 x 4 of 32 x 32 x 3, 8 %.

# %% [markdown]
# ## 2. Will it fit, and how long will it take?
#
# **Memory.** While it samples, a model needs its weights and what passes through one block at a time. With guidance two
# samples pass together. The largest tensor on the way is the MLP's inside, tokens x 4 width.

# %%
for name, (config, cost) in costs.items():
    tokens = config.grid[0] * config.grid[1]
    inside = 2 * tokens * round(config.mlp_ratio * config.dim) * 4
    print(f"{name:10} weights {cost.params * 4 / 1e6:7,.1f} MB in fp32, the inside of an MLP {inside / 1e6:4.1f} MB")

# %% [markdown]
# So what must fit is the weights: 2.7 GB (half of it in 16 bits), and while a file is read not much more, since it is
# taken tensor by tensor.
#
# **Time.** One block of DiT-XL/2, with random weights, tells how fast this machine is; 28 of them, twice for guidance,
# are a step. (What a block does takes as long with random weights as with trained ones.)


# %%
def seconds(model, config, label):
    """The median time of a guided forward, two samples at once."""
    x = torch.randn(2, config.in_channels, *config.size, device=device)
    t, y = torch.full((2,), 500, device=device), torch.full((2,), label, device=device)
    taken = []
    with torch.no_grad():
        for _ in range(3 if fast else 9):
            begun = time.perf_counter()
            model(x, t, y).sum().item()  # a number is asked for: a GPU answers only when it is done
            taken.append(time.perf_counter() - begun)
    return sorted(taken)[len(taken) // 2]


def said(seconds):
    """Seconds in a unit that can be read."""
    units = {"days": 86400, "h": 3600, "min": 60, "s": 1, "ms": 1e-3}
    unit = next((unit for unit, size in units.items() if seconds >= size), "ms")
    value = seconds / units[unit]
    return f"{value:.1f} {unit}" if value < 9.5 else f"{value:.0f} {unit}"


one = dit_lab.build("DiT-XL/2", depth=1).to(device).eval()
rate = 2 * count(one).macs / seconds(one, one.config, 207)  # multiply-accumulates a second
del one
estimated = {name: 2 * cost.macs / rate for name, (_, cost) in costs.items()}
print(f"this machine does about {rate / 1e9:.0f} GMACs a second ({device.type}, fp32)")
for name, guided in estimated.items():
    print(f"{name}: a guided step is estimated at {said(guided)}, a picture of 50 steps at {said(50 * guided)}")

# %% [markdown]
# Is such an estimate any good? The small model is here, so hold it against the clock. Beside it, a guided step of
# DiT-XL/2 on one H100, as `docs/results/bench-h100.md` has it: 21 ms in fp32, 3.0 ms in bf16, compiled.

# %%
tiny = dit_lab.load("cifar10", device=device).model
measured = seconds(tiny, small, 8)
dots = {
    "cifar10, estimated": (estimated["cifar10"], BLUE, "s"), "cifar10, measured": (measured, ORANGE, "o"),
    "DiT-XL/2, estimated": (estimated["DiT-XL/2"], BLUE, "s"), "DiT-XL/2, one H100": (0.021, "0.4", "D"),
    "... in bf16, compiled": (0.0030, "0.4", "D"),
}  # fmt: skip
figure = Figure(figsize=(9.5, 2.6), layout="constrained")
axis = figure.subplots()
for row, (value, colour, mark) in enumerate(dots.values()):
    axis.plot(value, row, mark, color=colour, markersize=9)
axis.set_yticks(range(len(dots)), dots)
axis.set(title="A guided step", xlabel="seconds (log scale)", xscale="log", ylabel="model")
axis.grid(alpha=0.4)
axis.invert_yaxis()
display(figure)

# %% [markdown]
# *Figure: what a guided step takes: estimated for this machine from one block of DiT-XL/2 (squares), measured (circle),
# and measured on an H100 (diamonds). The axis is logarithmic: from one grid line to the next it is ten times. Look how
# far estimate and measurement of the small model are apart.*

# %% [markdown]
# A small model takes longer than its MACs say: its products are too small to fill the processor, and what is no product
# (norms, calls) counts. So an estimate from a small model's time would be too long for the large one. The large
# one's own block has the large one's sizes. That 28 of them take 28 times as long is to be expected, as long as the
# weights fit into memory, but it is not shown here: only with the checkpoint can it be (see the end).
#
# ## 3. Load and sample
#
# `load` takes a zoo name, a file, a folder or a hub id. It executes nothing that a file holds, and checks all of it: a
# tensor that is missing, or too many, or of a wrong shape is refused. What a file cannot say stands in `note`.
#
# At full size each step is waited for, so `fast` makes a model of it that computes in what is faster here: a few
# forwards in fp32 and in half precision tell. On one H100 a guided step of DiT-XL/2 for 64 pictures takes an eighth of
# the time in bf16. The small model stays in fp32, as it is.

# %%
loaded = dit_lab.load(source, device=device)
codec = codec_of(loaded, vae, device=device)
labels = [label] if full else [label, 1, 7, 8]  # of the small model four: two ships, an automobile, a horse
model = make_fast(loaded.model, precision=precision, batch=2 * len(labels)).requires_grad_(False)
held = sum(weight.nbytes for weight in loaded.model.parameters()) / 1e6
print(f"{source}: {held:,.0f} MB of weights; class {label} is {loaded.labels[label]!r}; steps run in {model.speed}")
print(f"the autoencoder is {loaded.codec_hint}; note: {loaded.note or getattr(codec, 'note', '') or 'none'}")

# %% [markdown]
# Now sample, and record it: `record` keeps what the network was given at each step. The latents are decoded only to be
# looked at.

# %%
begun = time.perf_counter()
run = dit_lab.record(model, labels, steps=steps, cfg_scale=cfg_scale, seed=seed)
took = time.perf_counter() - begun
shown = [round(part * (steps - 1)) for part in (0, 0.3, 0.6, 1)]
rows = {f"predicted x0\nat t = {run.t[step]:g}": codec.decode(run.x0[step]) for step in shown}
rows |= {"picture": codec.decode(run.sample)}
picture_table(
    rows, [loaded.labels[each] for each in labels], f"{source}: the picture that the model expects, on the way"
)

# %% [markdown]
# *Figure: the picture that the network expects at some steps, from noise (top) to the end, decoded from latents. Of the
# small model expect little: 32 x 32 pixels, two and a half hours of training on one core. Look at what is settled
# first, colours and places or details.*

# %%
print(f"{len(labels)} samples, {steps} steps; each sample's step took about {said(took / steps / len(labels))}")

# %% [markdown]
# The whole run, to scrub; the same panel as the app's.

# %%
opened = Opened(run, model, codec, labels=loaded.labels, source=source)
show("trajectory", opened, step=shown[2])

# %% [markdown]
# *Figure: what the network was given (x_t), the picture that it expected (predicted x0) and the noise that it saw, step
# by step. Latents are no pictures, so x_t and noise are in false colours: a fixed mix of the four channels. Look at the
# step where the class can be told from predicted x0, and at x_t there.*

# %% [markdown]
# ## 4. A file of the original's
#
# Who has `DiT-XL-2-256x256.pt` names it in `local`. To see what happens then, here is such a file, small: the weights
# of the zoo's `mnist` under the original's names, saved as the original's script saves them.

# %%
mnist = dit_lab.load("mnist").model
Path("runs").mkdir(exist_ok=True)
torch.save(meta_dit.to_theirs(mnist.state_dict(), mnist.config), "runs/small.pt")
again = dit_lab.load("runs/small.pt")
print("some of its names:", ", ".join(list(torch.load("runs/small.pt", weights_only=True))[:4]))
print("note:", again.note)
sevens = [dit_lab.generate(of, [7], steps=4, seed=seed) for of in (mnist, again.model)]
print("both draw the same 7:", torch.equal(*sevens))

# %% [markdown]
# A file of tensors does not say what they are for. Size, patch, width, depth and number of classes follow from shapes;
# whether the model was trained to predict noise or something else does not. `load` takes the likely answer, and says
# so.
#
# ## 5. Look in
#
# All of notebook 10 works here: same functions, same panels. But the maps are larger: 28 blocks of 16 heads, 256 x 256
# weights a map.
#
# **Guess first.** 50 guided steps of one picture, every map kept in 16 bits: how many GB?

# %% tags=["stub"]
predict("11.3 GB of all attention maps of 50 guided steps", ...)

# %% tags=["guess"]
predict("11.3 GB of all attention maps of 50 guided steps", 0.5)

# %%
maps_of_a_step = 2 * 28 * 16 * 256**2  # two bytes a weight
kept = (3 * 50 + 1) * 4 * 32 * 32 * 4  # x_t, x0 and eps of 50 steps and the sample, four bytes a number


def all_maps():
    """What all maps take, and what is kept instead."""
    print(f"one step: {maps_of_a_step / 1e6:.0f} MB; at 512 x 512, of 1,024 tokens, {16 * maps_of_a_step / 1e6:.0f} MB")
    print(f"what a trajectory keeps of 50 steps: {kept / 1e6:.1f} MB")
    return f"{2 * 50 * maps_of_a_step / 1e9:.1f}"


reveal("11.3 GB of all attention maps of 50 guided steps", all_maps)

# %% [markdown] tags=["after"]
# 5.9 GB for one picture (a guided step has two passes, of 59 MB each), and 94 GB at 512 x 512. That is why nothing here
# keeps maps: a trajectory holds what the network was given, 2.5 MB, and a look runs one step again and computes what is
# asked for.

# %%
at = round(0.6 * steps)
numbers = attention_numbers(run, model, steps=[at])  # a few rows of a map at a time
reach = numbers.distance[..., 0]  # block head
block, head = divmod(int(reach.argmin()), model.config.heads)
print(f"the maps of one step here take {run.attention_bytes() / 1e6:,.1f} MB in fp32, and were never held at once")
print(f"of {reach.numel()} heads block {block} head {head} looks nearest: {reach.min():.1f} tokens far")
print(f"the median head looks {reach.median():.1f} tokens far on a grid of {run.grid[0]} x {run.grid[1]}")
patch = run.grid[0] // 2 * run.grid[1] + run.grid[1] // 2
asked = [dict(look="rows", step=at, sample=0, patch=patch, half="cond")]
asked += [dict(look="numbers", step=at, sample=0, half="cond")]
show("attention", opened, asked=asked, step=at, patch=patch, block=block, head=head)

# %% [markdown]
# *Figure: where the patch in the middle (outlined) looks in the block with the head that looks nearest. Below in the
# panel, every block and head in numbers. Look whether other heads of the block look near as well, or far.*

# %% [markdown]
# ## 6. Save the run, open it in the app
#
# The run is one file: tensors and a little JSON, nothing that is executed.

# %%
run.save(out)
read = Trajectory.load(out)
print(f"{out}: {Path(out).stat().st_size / 1e6:.1f} MB; read again it is the same: {torch.equal(read.x, run.x)}")
print("and it fits the model, step for step:", torch.allclose(read.lens(model, at)[-1], run.x0[at, 0], atol=1e-2))

# %% [markdown]
# In the app, from the root of the repository, with the checkpoint that made it:
#
# ```
# python app.py --checkpoint cifar10                      # as this notebook ran
# python app.py --checkpoint facebook/DiT-XL-2-256        # full size; fetches 3.3 GB where you have not yet
# python app.py --checkpoint DiT-XL-2-256x256.pt --vae stabilityai/sd-vae-ft-ema
# ```
#
# At the top of the page press **Open run** and choose `notebooks/runs/looked_into.safetensors`. The app asks each of
# its checkpoints for the run's middle step and takes the one that says the same; then all panels are open on your run.
# Files up to 32 MB are taken: some twelve pictures of DiT-XL/2 in 50 steps.
#
# Without the checkpoint the file still opens, to be scrubbed; what needs the model says so. Here too:

# %%
show("trajectory", Opened(read, codec=codec, labels=loaded.labels, source="the file alone"), step=at)

# %% [markdown]
# *Figure: the same run, from its file alone, no model behind it. Look for a difference to the panel of section 3; there
# should be none.*

# %% [markdown]
# ## 7. What changes at full size
#
# | | `cifar10` of the zoo | DiT-XL/2 at 256 x 256 |
# | --- | --- | --- |
# | picture, latent | 32 x 32, 8 x 8 x 4 | 256 x 256, 32 x 32 x 4 |
# | the encoder's output is multiplied by | 1.02066 | 0.18215 |
# | patch, tokens | 1 x 1, 64 | 2 x 2, 256 |
# | blocks, heads, width | 6, 4, 128 | 28, 16, 1152 |
# | predicts | v | eps, and the variance |
# | null label | 10 | 1000 |
# | the authors' own sampling | | 250 ancestral steps, guidance 4 (for FID 1.5) |
# | trained for | 9,000 steps of 64 | 7 million steps of 256 |
# | FID-50K (notebook 8), without guidance and at 1.5 | not measured so | 9.62, 2.27 (DiT, table 2) |
#
# One thing more: the original guides only the first three of the four latent channels, a leftover of an older code that
# was kept so that its figures can be made again. A scale of $1 + x$ on three channels is about $1 + \tfrac34 x$ on all
# four. `dit_lab` does all four unless told otherwise (`cfg_channels=3`).
#
# And looking inside costs more, for it is forwards. Section 9 of notebook 10 walked some 120 runs of 20 digits, 12
# guided steps each.
#
# **Guess first.** The same with DiT-XL/2, on one H100, in fp32: how many minutes?

# %% tags=["stub"]
predict("11.4 minutes of notebook 10's section 9 at full size on an H100", ...)

# %% tags=["guess"]
predict("11.4 minutes of notebook 10's section 9 at full size on an H100", 60)

# %%
guided_steps = 120 * 20 * 12
LOOKS = {  # guided steps: a forward of both halves
    "a click: where a patch looks": 1,
    "one step in parts": 1,
    "attention in numbers, over 50 steps": 50,
    "one picture of 50 steps": 50,
    "an edit and its 8 controls, 50 steps": 9 * 50,
    "what made this: 24 parts switched off, 50 steps": 25 * 50,
    "notebook 10's section 9": guided_steps,
}
h100 = 0.666 / 64  # seconds a guided step and picture, 64 at once, fp32: docs/results/bench-h100.md


def costs_of_looks():
    """What each look of notebook 10 costs with DiT-XL/2."""
    print(f"{'':48} {'an H100':>10} {'this machine':>14}")
    for look, forwards in LOOKS.items():
        print(f"{look:48} {said(forwards * h100):>10} {said(forwards * estimated['DiT-XL/2']):>14}")
    return f"{guided_steps * h100 / 60:.0f}"


reveal("11.4 minutes of notebook 10's section 9 at full size on an H100", costs_of_looks)

# %% [markdown] tags=["after"]
# Five minutes or so, and a day or more on a laptop's processor. So at full size ask as one asks with dear experiments:
# clicks and numbers cost few steps; choose with them what to switch off; and switch off little, for few steps, with few
# controls. (An H100's time is for 64 pictures at once, so a single click takes twice as long there. In bf16, compiled,
# it would be ten times as fast, but hooks, and so edits, do not hang in compiled code.)

# %% [markdown]
# ## Summary
#
# * What a checkpoint takes can be known before it comes: its size in files, in memory, and in time, from one block.
# * A file holds tensors. What they are for it may not say; `load` says what it took for granted.
# * A model of 675 million numbers is opened by the same calls as one of two million. What grows is the price of a look:
#   1,400 times the MACs.
# * A run is a small file, of a few MB at most for one picture, that notebook and app both open.

# %% tags=["figures"]
print(f"GB of the download: {whole:.1f}")
print(f"MACs, DiT-XL/2 over cifar10: about {round(ratio, -2):,.0f}")
print(f"GB of all attention maps of 50 guided steps: {2 * 50 * maps_of_a_step / 1e9:.1f}")
print(f"minutes of notebook 10's section 9 at full size on an H100: about {guided_steps * h100 / 60:.0f}")

# %% [markdown]
# ## What would falsify this?
#
# * *Time can be told from one block.* With DiT-XL/2 loaded, hold section 2's estimate against the clock. If a guided
#   step takes more than twice as long, weights do not fit into memory, or something else than products counts.
# * *A trajectory is enough.* Change one number of `read.x` and replay that step: if the attention stayed the same, the
#   look would not come from the file.
# * *The same weights, the same model.* `load` a diffusers folder and an original file of the same model, and draw from
#   the same noise. If the pictures differ beyond rounding, one of the two tables of names is wrong.
