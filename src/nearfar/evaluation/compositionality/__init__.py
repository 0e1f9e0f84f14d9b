"""Compositionality (ARO, arXiv 2210.01936): does a model know who does what, which attribute belongs to which thing,
and in which order words come? Multiple choice on ARO's own files, or on generated scenes."""
