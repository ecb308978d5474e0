from twisted.application.service import ServiceMaker

controller = ServiceMaker("avinet controller", "avinet.taps.controller", "The avinet controller.", "avi-controller")
engine = ServiceMaker("avinet service engine", "avinet.taps.se", "An avinet service engine.", "avi-se")
