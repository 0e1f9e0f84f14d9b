#!/usr/bin/env bash
# torchmetrics 1.9.0: recall, precision, MAP and MRR count no hit whose score is zero or below.
#
# Behaviour: RetrievalRecall, RetrievalPrecision, RetrievalMAP and RetrievalMRR set the target of every item with a score
# of at most 0 to "not relevant" before they rank. Scores of contrastive models are cosines or logits with a bias
# (SigLIP's lie below zero for most right pairs early on), so that a hit at rank 1 gives 0.0; one added to every score
# gives 1.0. RetrievalHitRate and RetrievalNormalizedDCG rank by the score alone, and give 1.0 both times.
# In nearfar: ranks depend on the order of scores alone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q torch==2.13.0 numpy==2.4.6 torchmetrics==1.9.0
env/bin/python - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import retrieval

cosines = torch.tensor([-0.1, -0.5, -0.9])
target, query = torch.tensor([1, 0, 0]), torch.zeros(3, dtype=torch.long)
expected = {
    "RetrievalRecall": (0.0, 1.0),
    "RetrievalPrecision": (0.0, 1.0),
    "RetrievalMAP": (0.0, 1.0),
    "RetrievalMRR": (0.0, 1.0),
    "RetrievalHitRate": (1.0, 1.0),
    "RetrievalNormalizedDCG": (1.0, 1.0),
}
print("torchmetrics", torchmetrics.__version__)
for name, figures in expected.items():
    measure = getattr(retrieval, name)(top_k=1)
    below = measure(cosines, target, indexes=query).item()
    measure.reset()
    above = measure(cosines + 1, target, indexes=query).item()
    print(f"{name}: the best item is right; scores below zero {below}, one added to each {above}")
    assert (below, above) == figures, name
# All three are taken, the right one among them: the figure stays 0.
assert retrieval.RetrievalRecall(top_k=3)(cosines, target, indexes=query).item() == 0.0
PYTHON
echo "as described"
