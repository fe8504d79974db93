"""The user study: blind ranking and side-by-side comparison, from folders of images to tables with tests."""
