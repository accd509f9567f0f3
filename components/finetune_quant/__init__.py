"""Component `finetune_quant`."""
