"""The command line: one file per command. argparse, because it is the only parser that costs no import to speak of."""
