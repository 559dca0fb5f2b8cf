#!/usr/bin/env bash
# datasets 5.2.0 (Hugging Face), Pillow 13.0.0.
#
# An image opened from a file with Pillow and then changed in place (`thumbnail`, drawing, `paste`)
# is stored as the file it came from: the change is lost, also where it is made in `map`. What is kept
# is the name of the file, and its bytes are read again. Faces made small are large again, and a face
# that was covered is there to be seen. A changed copy (`copy`, `resize`, `convert`) is kept.
#
# Seen:
#   the image in memory     (112, 84) covered
#   from_dict               (640, 480) as it was
#   after map               (640, 480) as it was
#   from_dict of its copy   (112, 84) covered
#
# Exits with 0 while this is so, with 1 if it has changed.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 pillow==13.0.0 numpy==2.4.6
cd "$work"
cat > inplace.py <<'PY'
import datasets
import numpy as np
from PIL import Image, ImageDraw

datasets.disable_progress_bars()
pixels = np.random.default_rng(0).integers(100, 256, (480, 640, 3), dtype=np.uint8)
Image.fromarray(pixels).save("photo.jpg")


def cover(image):
    image.thumbnail((112, 112))
    ImageDraw.Draw(image).rectangle((0, 0, 112, 112), fill=(0, 0, 0))
    return image


def show(name, image):
    covered = max(image.getpixel((5, 5))) == 0
    print(f"{name:22}  {image.size} {'covered' if covered else 'as it was'}")


def stored(image):
    return datasets.Dataset.from_dict({"image": [image]}, features=features)[0]["image"]


features = datasets.Features({"image": datasets.Image()})
changed = cover(Image.open("photo.jpg"))
show("the image in memory", changed)
show("from_dict", stored(changed))
files = datasets.Dataset.from_dict({"image": ["photo.jpg"]}, features=features)
show("after map", files.map(lambda row: {"image": cover(row["image"])})[0]["image"])
show("from_dict of its copy", stored(changed.copy()))
PY
HF_HOME="$work" HF_HUB_OFFLINE=1 "$work/venv/bin/python" inplace.py | tee seen
diff seen - <<'SEEN'
the image in memory     (112, 84) covered
from_dict               (640, 480) as it was
after map               (640, 480) as it was
from_dict of its copy   (112, 84) covered
SEEN
