"""What a program uses, read from its syntax tree: `torchdevice doctor`.

Nothing of the program is run or imported. `_reader` walks a file and keeps track of what is
reached and under which condition, `_checks` says what is found there, `_rules` is the table of
what there is to find. `_states` asks the tables of torch's names, and alone imports torch.
"""
