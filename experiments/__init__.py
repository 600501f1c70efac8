"""Published results reproduced, and speed measured: each study is a script with a `main`."""
