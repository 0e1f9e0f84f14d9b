#!/usr/bin/env bash
# torch 2.13.0: a first step that GradScaler skips leaves a fused SGD with momentum another state than a plain one.
#
# Behaviour: in float16 the first scales are often too large, and the scaler skips the step. It does so by not calling a
# plain SGD, which then has no momentum yet, but it calls a fused one with a flag. That step leaves the weights as they
# are, and keeps a momentum buffer for each of them that it allocated and never wrote: the next step takes what lay in
# that memory for the momentum of the one before. AdamW's fused step, whose buffers begin as zeros, does not.
# In nearfar: the momentum of `sgd` begins as zeros.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0
env/bin/python - <<'PYTHON'
import torch

torch.set_num_threads(1)


def after_a_skipped_step(fused):
    """The momentum that an optimiser has when its first step was skipped; and whether it left the weight alone."""
    weight = torch.nn.Parameter(torch.ones(1 << 16))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    scaler.scale((weight * 1e36).sum()).backward()  # too large for the scale: an infinite gradient
    rubbish = torch.full((1 << 16,), 7.0)  # freed memory, as earlier tensors of a training leave it
    del rubbish
    scaler.step(optimizer)
    scaler.update()
    assert torch.equal(weight, torch.ones(1 << 16)), "the step was skipped"
    return optimizer.state[weight].get("momentum_buffer")


plain, fused = after_a_skipped_step(False), after_a_skipped_step(True)
print("plain:", plain)
print("fused:", fused)
assert plain is None
assert fused is not None
PYTHON
echo "as described"
