"""Reference implementations of the course. Read them in this order:

    norms       batch norm forward and backward, then the same over any axes
    layers      affine, activations and norms, for one network or a stack of many
    network     a fully connected network, its updates, and a Solver that trains it
    gradcheck   backward passes against central differences
    record      what happens inside a PyTorch model
    practice    freezing, recalibrating and folding a trained model's batch norm
    sync        one batch over several processes

Beside them: `data` loads the images, `plots` draws the figures. Import what you need,
`from bn_helpers import norms`; this package itself loads none of them.
"""
