"""The processes of STDWeb, one folder each; they meet only in `shared.contracts` and on the broker."""
