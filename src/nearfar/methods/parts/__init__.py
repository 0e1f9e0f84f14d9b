"""Parts that methods share: momentum encoders, queues, distillation, matching, masking, negatives."""
