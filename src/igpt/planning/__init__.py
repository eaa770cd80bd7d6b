"""What a training will take, from closed forms and a model without data: parameters, FLOPs, memory, time, money."""
