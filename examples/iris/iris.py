"""The tutorial of *Everyone's MLOps*: train, register, serve, watch. Run: python iris.py"""

import tempfile

from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import madang
from madang import Stack, pipeline, step
from madang.deployment.serving import Arm
from madang.development.experiments.evaluation import evaluate
from madang.server.supervisor import running


@step
def train(stack: Stack, c: float) -> int:
    x, x_test, y, y_test = train_test_split(*load_iris(return_X_y=True), random_state=0)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=c)).fit(x, y)
    found = evaluate(model, x_test, y_test)
    return stack.registry.register("iris", model, example=x[:5], evaluation=found.metrics).version


@pipeline
def iris(c: float = 1.0):
    return train(c=c)


if __name__ == "__main__":
    folder = madang.init(tempfile.mkdtemp(), name="iris").root
    with madang.open(folder) as stack, running(stack) as processes:
        version = stack.pipelines.load(iris.run(stack).results["result"])
        stack.serving.deploy("iris", [Arm("iris", version)])
        print(stack.registry.get("iris").evaluation)
        print(stack.serving.predict("iris", [[5.1, 3.5, 1.4, 0.2]]))
        print([line.subject for line in stack.ledger.origin("endpoint:iris@1")])
