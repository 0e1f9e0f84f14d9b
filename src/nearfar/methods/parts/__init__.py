"""Parts that methods share: momentum encoders, queues, distillation, matching, masking, what waits for a step's end."""
