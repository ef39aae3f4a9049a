import * as ort from "onnxruntime-web/webgpu";
import { answerMessages } from "./answer";

answerMessages(ort, "webgpu");
