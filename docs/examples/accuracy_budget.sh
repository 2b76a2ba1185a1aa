#!/bin/sh
# A CI job: convert, evaluate, and fail if the spiking network loses too much.
# accuracy_budget.sh ANN TEST_DATA TRAINING_DATA
set -eu
onnx2snn convert "$1" -o snn.onnx --calibration "$3" -T 32
onnx2snn evaluate snn.onnx --data "$2" -T 32 --ann "$1" --min-accuracy 92 --max-drop 1.0
onnx2snn export snn.onnx --to loop -T 32 --inline -o net.onnx --force
