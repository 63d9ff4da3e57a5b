"""What runs around an app in its container. Standard library and Uvicorn; in the image the package is stack_runtime."""
