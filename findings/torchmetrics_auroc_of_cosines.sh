#!/usr/bin/env bash
# torchmetrics 1.9.0, torch 2.13.0.
#
# The area under the ROC curve of one set of cosine scores depends on how they are cut into batches.
# A call of `update` whose scores all lie in [0, 1] keeps them; one with a score outside passes all of
# its scores through a sigmoid. Cosines reach below 0, so that small batches mix two scales in one
# metric: no error, no warning. Cosines times the usual scale of 64, all in one call, lose as well:
# float32's sigmoid is 1 for everything above 17, and what was ordered is now tied.
#
# Seen (scikit-learn's roc_auc_score of the same scores is 0.840 at either scale):
#   cosines, all at once     0.840
#   cosines, batches of 4    0.790
#   cosines, one at a time   0.588
#   64 x cosines, at once    0.823
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 torchmetrics==1.9.0 numpy==2.4.6
cd "$work"
cat > auroc.py <<'PY'
import torch
from torchmetrics.classification import BinaryAUROC

noise = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
genuine = torch.arange(20_000) % 2
cosines = (0.25 * noise + 0.35 * genuine).clamp(-1, 1)
for name, scores, size in (
    ("cosines, all at once   ", cosines, 20_000),
    ("cosines, batches of 4  ", cosines, 4),
    ("cosines, one at a time ", cosines, 1),
    ("64 x cosines, at once  ", 64 * cosines, 20_000),
):
    metric = BinaryAUROC()
    for batch, labels in zip(scores.split(size), genuine.split(size), strict=True):
        metric.update(batch, labels)
    print(f"{name}  {metric.compute():.3f}")
PY
"$work/venv/bin/python" auroc.py | tee seen
diff seen - <<'SEEN'
cosines, all at once     0.840
cosines, batches of 4    0.790
cosines, one at a time   0.588
64 x cosines, at once    0.823
SEEN
