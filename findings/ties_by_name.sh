#!/usr/bin/env bash
# pytrec_eval-terrier 0.5.11, ir-measures 0.4.3 and ranx 0.3.21: what a model that answers alike to everything scores
# depends on how the items are named, and the libraries disagree.
#
# Behaviour: four items with one score each, one of them relevant. pytrec_eval and ir-measures rank equal scores by name,
# the last in the alphabet first: recall@1 is 1 where the relevant one is called "d", else 0, and MRR 1/4, 1/3, 1/2, 1 for
# "a" to "d". ranx ranks them as the run lists them: recall@1 is 1 for "a", MRR 1, 1/2, 1/3, 1/4. A collapsed encoder
# whose test pairs are named in order looks perfect in one and at chance in another.
# In nearfar: a figure is its expectation over all orders of the tied, so that such a model is at chance, whatever the names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv env
env/bin/pip install -q --only-binary :all: numpy==2.4.6 pytrec_eval-terrier==0.5.11 ir-measures==0.4.3 ranx==0.3.21
env/bin/python -W ignore - <<'PYTHON'
import ir_measures
import pytrec_eval
import ranx

ITEMS = ["a", "b", "c", "d"]
table = {}
for relevant in ITEMS:
    qrels, run = {"query": {relevant: 1}}, {"query": dict.fromkeys(ITEMS, 0.5)}
    trec = pytrec_eval.RelevanceEvaluator(qrels, {"recall.1", "recip_rank"}).evaluate(run)["query"]
    measures = ir_measures.calc_aggregate([ir_measures.R @ 1, ir_measures.RR], qrels, run)
    other = ranx.evaluate(ranx.Qrels(qrels), ranx.Run(run), ["recall@1", "mrr"])
    table[relevant] = {
        "pytrec_eval": (trec["recall_1"], round(trec["recip_rank"], 3)),
        "ir-measures": (measures[ir_measures.R @ 1], round(measures[ir_measures.RR], 3)),
        "ranx": (float(other["recall@1"]), round(float(other["mrr"]), 3)),
    }
    print(relevant, table[relevant])
for name in ("pytrec_eval", "ir-measures"):
    assert [table[item][name] for item in ITEMS] == [(0.0, 0.25), (0.0, 0.333), (0.0, 0.5), (1.0, 1.0)], name
assert [table[item]["ranx"] for item in ITEMS] == [(1.0, 1.0), (0.0, 0.5), (0.0, 0.333), (0.0, 0.25)]
PYTHON
echo "as described"
