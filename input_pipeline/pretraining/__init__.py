"""From records to batches: masks, sentence order, anchors, packed rows."""
