"""A model for other programs: ONNX, and packages of the BioImage Model Zoo."""
