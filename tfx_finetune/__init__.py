"""Fine-tune pretrained models on your own data and get a verified bundle that runs where you need it."""
