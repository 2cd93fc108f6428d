"""The calls that AWS's public RFT notebooks make, in their order: our own words for their cells.

A cell is a function of the notebook's variables (`Nova`, `OpenWeight`), named by what it does. The
clients are made as the notebooks make them, without an address: `AWS_ENDPOINT_URL` says it.
"""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import boto3
from aws_bedrock_token_generator import provide_token
from openai import OpenAI

BASIC_EXECUTION = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
FIELDS = (
    "critic_rewards_mean",
    "actor_pg_loss",
    "actor_entropy",
    "actor_grad_norm",
    "critic_advantages_mean",
    "response_length_mean",
)


def trust(service: str) -> str:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": f"{service}.amazonaws.com"},
        "Action": "sts:AssumeRole",
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def policy(*statements: tuple[Any, Any]) -> str:
    shown = [{"Effect": "Allow", "Action": a, "Resource": r} for a, r in statements]
    return json.dumps({"Version": "2012-10-17", "Statement": shown})


class Roles:
    """What all the notebooks do with STS, IAM and Lambda."""

    def __init__(self, name: str, *, region: str, bucket: str) -> None:
        self.name, self.bucket, self.region = name, bucket, region
        self.session = boto3.Session(region_name=region)
        self.account = self.session.client("sts").get_caller_identity()["Account"]
        self.s3 = self.session.client("s3")
        self.bedrock = self.session.client("bedrock")
        self.functions = self.session.client("lambda")
        self.iam = self.session.client("iam")
        self.function = f"{name}-reward-function"

    def make_role(self, name: str, service: str) -> str:
        try:
            made = self.iam.create_role(
                RoleName=name, AssumeRolePolicyDocument=trust(service), Description="For RFT"
            )
        except self.iam.exceptions.EntityAlreadyExistsException:
            made = self.iam.get_role(RoleName=name)
        arn: str = made["Role"]["Arn"]
        return arn

    def deploy(self, source: str, *, module: str, judges: bool = False) -> str:
        """Roles and the function; gives its ARN. As in the notebooks, it may be run twice."""
        role_name = f"{self.name.upper()}-Lambda-Role"
        role = self.make_role(role_name, "lambda")
        self.iam.attach_role_policy(RoleName=role_name, PolicyArn=BASIC_EXECUTION)
        if judges:
            self.iam.put_role_policy(
                RoleName=role_name,
                PolicyName="LambdaBedrockPolicy",
                PolicyDocument=policy(("bedrock:InvokeModel", "*")),
            )
        package = io.BytesIO()
        with zipfile.ZipFile(package, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"{module}.py", source)
        try:
            self.functions.get_function(FunctionName=self.function)
            self.functions.update_function_code(
                FunctionName=self.function, ZipFile=package.getvalue()
            )
            self.functions.get_waiter("function_updated_v2").wait(FunctionName=self.function)
        except self.functions.exceptions.ResourceNotFoundException:
            self.functions.create_function(
                FunctionName=self.function,
                Runtime="python3.11",
                Role=role,
                Handler=f"{module}.lambda_handler",
                Code={"ZipFile": package.getvalue()},
                Timeout=300,
                MemorySize=512,
            )
        self.functions.get_waiter("function_active_v2").wait(FunctionName=self.function)
        found = self.functions.get_function(FunctionName=self.function)
        arn: str = found["Configuration"]["FunctionArn"]
        self.bedrock_role = self.make_role("BedrockRFTRole", "bedrock")
        self.iam.put_role_policy(
            RoleName="BedrockRFTRole",
            PolicyName="BedrockRFTPermissions",
            PolicyDocument=policy(
                (["s3:GetObject", "s3:ListBucket"], f"arn:aws:s3:::{self.bucket}/*"),
                ("s3:PutObject", f"arn:aws:s3:::{self.bucket}/rft-output/*"),
                ("lambda:InvokeFunction", arn),
            ),
        )
        return arn

    def try_reward(self, event: list[Any]) -> Any:
        """The answer of the function to a test event."""
        answer = self.functions.invoke(
            FunctionName=self.function,
            InvocationType="RequestResponse",
            Payload=json.dumps(event),
        )
        return json.loads(answer["Payload"].read())


class Nova(Roles):
    """The three Nova notebooks."""

    def upload(self, files: dict[str, Path]) -> None:
        """`train`, `val` and `test`."""
        for split, path in files.items():
            self.s3.upload_file(str(path), self.bucket, self._key(split))

    def _key(self, split: str) -> str:
        return f"rft-data/datasets/{self.name}/{split}.jsonl"

    def create_job(self, job_name: str, function: str, **sizes: int) -> str:
        base = "amazon.nova-2-lite-v1:0:256k"
        made = self.bedrock.create_model_customization_job(
            jobName=job_name,
            customModelName=f"{self.name}-nova-lite-rft",
            roleArn=self.bedrock_role,
            baseModelIdentifier=f"arn:aws:bedrock:{self.region}::foundation-model/{base}",
            customizationType="REINFORCEMENT_FINE_TUNING",
            trainingDataConfig={"s3Uri": f"s3://{self.bucket}/{self._key('train')}"},
            validationDataConfig={
                "validators": [{"s3Uri": f"s3://{self.bucket}/{self._key('val')}"}]
            },
            outputDataConfig={"s3Uri": f"s3://{self.bucket}/rft-output/"},
            customizationConfig={
                "rftConfig": {
                    "graderConfig": {"lambdaGrader": {"lambdaArn": function}},
                    "hyperParameters": {
                        "learningRate": 5e-5,
                        "epochCount": 1,
                        "evalInterval": 10,
                        "reasoningEffort": "high",
                        **sizes,
                    },
                }
            },
        )
        arn: str = made["jobArn"]
        return arn

    def look(self, job_name: str) -> Any:
        """The job, by its name."""
        return self.bedrock.get_model_customization_job(jobIdentifier=job_name)


class OpenWeight(Roles):
    """The gpt-oss and Qwen notebooks; `endpoint` is their one line that is changed."""

    def connect(self, endpoint: str) -> OpenAI:
        return OpenAI(base_url=f"{endpoint}/v1", api_key=provide_token(region="us-west-2"))

    def create_job(self, client: OpenAI, model: str, file_id: str, function: str) -> Any:
        hyperparameters = {"n_epochs": 1, "batch_size": 4, "learning_rate_multiplier": 1.0}
        grader = {"type": "lambda", "lambda": {"function": function}}
        reinforcement = {"grader": grader, "hyperparameters": hyperparameters}
        return client.fine_tuning.jobs.create(
            model=model,
            training_file=file_id,
            extra_body={"method": {"type": "reinforcement", "reinforcement": reinforcement}},
        )
