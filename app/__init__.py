"""The local web page: uploads, one queue of jobs, preset sets with sliders, live audio, and the server of all this."""
