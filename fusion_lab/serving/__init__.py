"""A trained model that answers raw rows: what it needs beside the code, how rows come in and answers go out."""
