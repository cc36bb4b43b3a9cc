"""How good samples are: labelled samples in a folder, what they are judged by, and the figures that come out."""
