"""All exercises by name, in the order of the notebooks."""

from dit_lab.course.exercises import (
    attention,
    conditioning,
    inside,
    latents,
    next,
    noise,
    patches,
    sampling,
    scaling,
    training,
    udit,
)

NOTEBOOKS_OF = noise, patches, attention, conditioning, training, sampling, latents, scaling, udit, inside, next
EXERCISES = {exercise.name: exercise for notebook in NOTEBOOKS_OF for exercise in notebook.EXERCISES}
