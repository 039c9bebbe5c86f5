"""U-Net segmentation of microscopy images, from annotated images to masks of gigapixel slides."""

__version__ = "0.1.0"
