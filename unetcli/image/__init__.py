"""What an image is, where it is kept, how it is cut and streamed."""
