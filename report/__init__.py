"""What a person looks at: tables, TensorBoard, figures."""
