"""Things in pictures with their boxes: as records have them, as batches do, and in files of COCO's and LVIS's kind."""
