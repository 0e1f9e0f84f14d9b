"""What the test of a kill runs in a process of its own: an adaptation that reads slowly and keeps each batch."""

import sys
import time

from nearfar.adaptation import adapt, kept_reading
from nearfar.models.dual.dual_encoder import DualEncoder


def go(data, model, out):
    """Adapt; each batch of pictures takes half a second."""
    plain = DualEncoder.image_summary

    def slowly(self, pixels):
        if pixels.ndim == 4:
            time.sleep(0.5)
            print("read", len(pixels), flush=True)
        return plain(self, pixels)

    DualEncoder.image_summary = slowly
    kept_reading.EVERY = 0.0
    adapt(data, model, out, share=0.3, batch_size=8)


if __name__ == "__main__":
    go(*sys.argv[1:4])
