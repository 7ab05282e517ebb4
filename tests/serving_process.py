"""Serve a SavedModel over gRPC on loopback, with TensorFlow and the official API alone.

Arguments: the folder of the version. Prints the port, and ends when its standard input is closed.
"""

import sys
from concurrent import futures

import grpc
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc


class Service(prediction_service_pb2_grpc.PredictionServiceServicer):
    def __init__(self, folder: str) -> None:
        self.model = tf.saved_model.load(folder)

    def Predict(self, request, context):
        function = self.model.signatures[request.model_spec.signature_name or "serving_default"]
        inputs = {name: tf.constant(tf.make_ndarray(v)) for name, v in request.inputs.items()}
        response = predict_pb2.PredictResponse()
        response.model_spec.CopyFrom(request.model_spec)
        for name, value in function(**inputs).items():
            response.outputs[name].CopyFrom(tf.make_tensor_proto(value.numpy()))
        return response


if __name__ == "__main__":
    server = grpc.server(futures.ThreadPoolExecutor(1))
    service = Service(sys.argv[1])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    assert "keras_backdoor" not in sys.modules
    print(port, flush=True)
    sys.stdin.read()
    server.stop(None)
