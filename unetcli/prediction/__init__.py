"""From images and a model to what is written of each pixel."""
