"""What knows nothing of models: settings, the command line, files, figures, FLOPs."""
