"""What GPUs do, under the task that made them do it.

Buffers of raw activity records come out of workers that own a GPU; ``parse`` makes columns of them by the ``layouts``
of a CUPTI version, ``attribution`` finds the task of each record. Reading them needs no GPU.
"""
