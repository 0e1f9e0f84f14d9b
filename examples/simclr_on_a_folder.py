"""SimCLR (arXiv 2002.05709) on a folder of pictures in a plain torch loop: no trainer, no method.

    python examples/simclr_on_a_folder.py 300 photos/

Two augmented views of each picture find each other among all views of the batch. Without a folder the pictures are the
embedded world's emoji. The number is how many steps to train. The backbone ends up in `simclr/`, for `nearfar index`.
"""

import sys

import torch

from nearfar.data import Loader, open_source
from nearfar.evaluation import embed, knn
from nearfar.evaluation.protocols.geometry import effective_rank
from nearfar.losses import NTXent
from nearfar.models import image_encoder

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 300
SPEC = sys.argv[2] if len(sys.argv) > 2 else "world/emoji"
torch.manual_seed(0)

source = open_source(SPEC)
model = image_encoder("tiny-resnet", projector={"layers": 2, "hidden": 256, "out": 64})
loader = Loader(
    source,
    batch_size=min(128, len(source)),
    views="simclr",  # crop, mirror, colour, grey, blur; made for the whole batch at once
    n_views=2,
    image_size=model.image_size,
    mean=model.mean,
    std=model.std,
)
criterion = NTXent(0.2, learnable=False)
optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-4)

losses = []
model.train()
while len(losses) < STEPS:
    for batch in loader:
        both = model.project_image(batch["views"].flatten(0, 1))  # both views in one pass
        loss = criterion(*both.chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if len(losses) % 20 == 0:
            print(f"step {len(losses)}: loss {sum(losses[-20:]) / 20:.3f}")
        if len(losses) == STEPS:
            break

model.eval()
held_out = open_source(SPEC, split="val").first(500) if SPEC.startswith("world/") else source
features = embed(model, held_out)
rank = effective_rank(features.image)
print(f"effective rank of the features: {rank:.1f} of {model.embed_dim}; 1 would be collapse")
accuracy = None
if features.label is not None:
    accuracy = knn(features, k=1)["top1"]
    print(f"a picture's nearest neighbour has its class: {accuracy:.1%}")
model.save_pretrained("simclr")
