"""Data sets: what others wrote, read into boxes, checked, split, and written as images, labels and lists."""
